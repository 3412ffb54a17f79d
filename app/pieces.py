"""Uploads in several pieces: they lie in the store's spool, and the database says how many of their bytes count.

A piece is on the disk before the database counts it. What a killed process wrote beyond that is cut off by the next
piece, so an upload goes on where it stopped, whatever happened in between.
"""

import base64
import fcntl
import hashlib
import os
import shutil
from asyncio import CancelledError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from anyio import CancelScope
from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app.bodies import chunks
from app.errors import ApiProblem, NotFound
from app.services import Services
from app.sniff import HEAD_BYTES, check_dataset_head, check_model_head
from app.store.blobs import CHUNK_BYTES, write_all
from app.store.models import UploadRow
from app.store.repositories import Uploads
from secateur.upload_schemas import OFFSET

SAVED_EVERY_BYTES = 32 * CHUNK_BYTES
CHECK_HEAD: dict[str, Callable[[bytes], None]] = {"model": check_model_head, "dataset": check_dataset_head}


@dataclass(frozen=True, kw_only=True)
class Spooled:
    """An upload whose file nobody else may write or take meanwhile."""

    row: UploadRow
    path: Path
    descriptor: int

    @property
    def offset(self) -> int:
        """Bytes that count; a spool that was lost leaves fewer than the database remembers."""
        return min(self.row.received_bytes, os.fstat(self.descriptor).st_size)

    def head(self) -> bytes:
        """The first bytes, as many as tell a file's kind."""
        return os.pread(self.descriptor, min(HEAD_BYTES, self.offset), 0)


def max_bytes(services: Services, purpose: str) -> int:
    """Largest file for the purpose."""
    return services.settings.max_model_bytes if purpose == "model" else services.settings.max_dataset_bytes


def require_room(services: Services, size_bytes: int) -> None:
    """Raise 507 when the spool's disk cannot hold so many bytes: better now than an hour into the upload."""
    if shutil.disk_usage(services.blobs.uploads_folder).free < size_bytes:
        raise ApiProblem("storage_full", f"The service's disk has no room for {size_bytes} bytes.")


def received_bytes(services: Services, row: UploadRow) -> int:
    """Bytes of the upload that count."""
    try:
        return min(row.received_bytes, (services.blobs.uploads_folder / row.id).stat().st_size)
    except FileNotFoundError:
        return 0


@contextmanager
def taken(services: Services, project_id: str | None, upload_id: str) -> Iterator[Spooled]:
    """The project's upload with its file, locked. Raises 404, and 409 while another request has it."""
    with services.database.read() as session:
        if Uploads(session).get(upload_id, project_id=project_id) is None:
            raise NotFound("upload", upload_id)
    path = services.blobs.uploads_folder / upload_id
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ApiProblem("upload_busy", "Another request has the upload.", headers={"Retry-After": "1"}) from None
        with services.database.read() as session:
            row = Uploads(session).get(
                upload_id, project_id=project_id
            )  # again: whoever had the lock may have moved it on
        if row is None:
            path.unlink(missing_ok=True)
            raise NotFound("upload", upload_id)
        yield Spooled(row=row, path=path, descriptor=descriptor)
    finally:
        os.close(descriptor)


def forget(services: Services, upload_id: str) -> bool:
    """Delete an upload with its bytes; False when there was none."""
    with services.database.write() as session:
        found = Uploads(session).delete(upload_id)
    (services.blobs.uploads_folder / upload_id).unlink(missing_ok=True)
    return found


def abandon(services: Services, upload_id: str, max_age_s: float) -> bool:
    """Delete an upload to which nothing was added for so long, or bytes whose upload is gone; False where that is not so.

    Nor while a request has it: only who holds the file's lock may add to it.
    """
    path = services.blobs.uploads_folder / upload_id
    descriptor = os.open(path, os.O_RDWR) if path.exists() else None
    try:
        if descriptor is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with services.database.write() as session:
            uploads = Uploads(session)
            if uploads.get(upload_id, project_id=None) is not None and not uploads.delete_old(upload_id, max_age_s):
                return False
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return True


async def add_piece(
    request: Request, services: Services, spooled: Spooled, *, offset: int, checksum: str | None
) -> int:
    """Append the request's body and return the new offset.

    What came before a connection broke stays, unless there is a checksum, which speaks for the whole body alone. Raises
    409 for another offset, 413 beyond the size, 415 as soon as the file's first bytes are of another kind, 422, 507.
    """
    if offset != spooled.offset:
        raise ApiProblem(
            "offset_mismatch", f"The upload goes on at {spooled.offset}.", headers={OFFSET: str(spooled.offset)}
        )
    piece = _Piece(services, spooled, offset, _expected(checksum))
    announced = request.headers.get("content-length", "")
    if announced.isdecimal():
        piece.check_size(int(announced))
    try:
        async for chunk in chunks(request):
            await run_in_threadpool(piece.write, chunk)
        await run_in_threadpool(piece.finish)
    except (ClientDisconnect, TimeoutError, CancelledError) as error:
        with CancelScope(shield=True):
            await run_in_threadpool(piece.break_off)
        if isinstance(error, TimeoutError):
            raise ClientDisconnect from None
        raise
    except Exception:
        await run_in_threadpool(piece.undo)
        raise
    return piece.end


class _Piece:
    """The bytes of one request on their way to the disk."""

    def __init__(self, services: Services, spooled: Spooled, offset: int, expected: bytes | None) -> None:
        self._services, self._spooled, self._offset, self._expected = services, spooled, offset, expected
        self._hash = hashlib.sha256()
        self._saved = self.end = offset
        os.ftruncate(spooled.descriptor, offset)
        os.lseek(spooled.descriptor, offset, os.SEEK_SET)

    def check_size(self, num_bytes: int) -> None:
        """Raise 413 when the piece does not fit into the upload."""
        size_bytes = self._spooled.row.size_bytes
        if self._offset + num_bytes > size_bytes:
            detail = f"The upload was announced with {size_bytes} bytes."
            raise ApiProblem("body_too_large", detail, headers={"Connection": "close"})

    def write(self, chunk: bytes) -> None:
        """Append bytes. Raises 413 beyond the size of the upload."""
        self.check_size(self.end + len(chunk) - self._offset)
        write_all(self._spooled.descriptor, chunk)
        self._hash.update(chunk)
        self.end += len(chunk)
        if self._expected is None and self.end - self._saved >= SAVED_EVERY_BYTES:
            self._save()

    def finish(self) -> None:
        """Count the piece. Raises 422 for another checksum, 415 for a file of another kind."""
        if self._expected is not None and self._hash.digest() != self._expected:
            raise ApiProblem("checksum_mismatch", "The bytes of this piece are not those of its checksum.")
        self._save()
        row = self._spooled.row
        if self._offset < HEAD_BYTES and (self.end >= HEAD_BYTES or self.end == row.size_bytes):
            try:
                CHECK_HEAD[row.purpose](os.pread(self._spooled.descriptor, HEAD_BYTES, 0))
            except ApiProblem:
                forget(self._services, row.id)
                raise

    def break_off(self) -> None:
        """Keep what came, where it can be told to be right."""
        if self._expected is None:
            self._save()
        else:
            self.undo()

    def undo(self) -> None:
        """Keep what was counted already and no more."""
        self.end = self._saved
        os.ftruncate(self._spooled.descriptor, self._saved)

    def _save(self) -> None:
        os.fsync(self._spooled.descriptor)
        with self._services.database.write() as session:
            if not Uploads(session).advance(self._spooled.row.id, self.end):
                raise NotFound("upload", self._spooled.row.id)
        self._saved = self.end


def _expected(checksum: str | None) -> bytes | None:
    """The digest of `sha256 <base64>`."""
    if checksum is None:
        return None
    name, _, value = checksum.partition(" ")
    try:
        digest = base64.b64decode(value, validate=True)
    except ValueError:
        digest = b""
    if name != "sha256" or len(digest) != hashlib.sha256().digest_size:
        raise ApiProblem("invalid_request", "Upload-Checksum: give `sha256` and the digest in base64.")
    return digest
