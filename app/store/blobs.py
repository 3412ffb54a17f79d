"""Files by the SHA-256 of their content: one interface, kept in a local folder or (`blobs_s3`) in a bucket.

A file is written to a local spool, hashed on the way, and gets its name only when it is complete: nobody ever sees half
of one, and equal files are one file.
"""

import contextlib
import hashlib
import os
import re
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

CHUNK_BYTES = 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")


class BlobDamaged(Exception):
    """What is stored under a hash is something else: the disk or the bucket lost bits."""


class StoreUnavailable(Exception):
    """The bucket does not answer, or refuses us."""


@dataclass(frozen=True, kw_only=True)
class Blob:
    """A stored file."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class StoredBlob:
    """A stored file as the store itself lists it."""

    sha256: str
    size_bytes: int
    modified_at: datetime


class BlobWriter:
    """A file being written: `write` the chunks, then `commit`; leaving the `with` block before that leaves nothing."""

    def __init__(self, store: "BlobStore") -> None:
        self._store = store
        self._path = store.temporary_path()
        # Unbuffered: with a buffer, a full disk would speak up when the file is closed, where nobody can act on it.
        self._file = self._path.open("xb", buffering=0)
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def write(self, chunk: bytes) -> None:
        """Append `chunk`."""
        write_all(self._file.fileno(), chunk)
        self._hash.update(chunk)
        self.size_bytes += len(chunk)

    @property
    def sha256(self) -> str:
        """Of what was written so far."""
        return self._hash.hexdigest()

    def commit(self) -> Blob:
        """Flush to the disk, give the file its name and return it."""
        os.fsync(self._file.fileno())
        self._file.close()
        blob = Blob(sha256=self.sha256, size_bytes=self.size_bytes)
        self._store.adopt(self._path, blob.sha256)
        return blob

    def __enter__(self) -> "BlobWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


class BlobStore(ABC):
    """What the API and the workers see of the store. All of it blocks: call it from threads."""

    def __init__(self, spool: Path) -> None:
        """Files that are not complete yet lie in `spool`: `tmp/` for writers, `uploads/` for uploads in several pieces."""
        self._temporaries = spool / "tmp"
        self.uploads_folder = spool / "uploads"
        for folder in (self._temporaries, self.uploads_folder):
            folder.mkdir(parents=True, exist_ok=True)

    def writer(self) -> BlobWriter:
        """Start a new file."""
        return BlobWriter(self)

    def put_bytes(self, content: bytes) -> Blob:
        """Store `content`."""
        with self.writer() as writer:
            writer.write(content)
            return writer.commit()

    def put_file(self, path: Path) -> Blob:
        """Store a copy of the file at `path`."""
        with path.open("rb") as source, self.writer() as writer:
            while chunk := source.read(CHUNK_BYTES):
                writer.write(chunk)
            return writer.commit()

    def put_spooled(self, path: Path, sha256: str) -> None:
        """Store the complete file at `path`, which lies in the spool and stays there, under its hash without a copy."""
        link = self.temporary_path()
        os.link(path, link)
        try:
            self.adopt(link, sha256)
        finally:
            link.unlink(missing_ok=True)

    def exists(self, sha256: str) -> bool:
        """True when the blob is stored. Raises ValueError for what is no SHA-256."""
        try:
            self.size_bytes(sha256)
        except FileNotFoundError:
            return False
        return True

    def read_bytes(self, sha256: str) -> bytes:
        """The whole content of a small file. Raises FileNotFoundError when it is not stored, BlobDamaged."""
        content = b"".join(self.chunks(sha256, 0, self.size_bytes(sha256)))
        if hashlib.sha256(content).hexdigest() != sha256:
            raise BlobDamaged(f"the stored file {sha256} is damaged")
        return content

    def temporary_path(self) -> Path:
        """A fresh name in the spool, for a file that is not complete yet."""
        return self._temporaries / secrets.token_hex(16)

    def delete_stale_temporaries(self, older_than_s: float) -> int:
        """Remove what interrupted writers left behind; returns how many files."""
        limit = time.time() - older_than_s
        stale = [path for path in self._temporaries.iterdir() if _modified_s(path) < limit]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    @abstractmethod
    def adopt(self, path: Path, sha256: str) -> None:
        """Give the complete, flushed file at `path`, which lies in the spool and goes, its final name; durably."""

    @abstractmethod
    def size_bytes(self, sha256: str) -> int:
        """Size of the blob. Raises FileNotFoundError when it is not stored, ValueError for what is no SHA-256."""

    @abstractmethod
    def chunks(self, sha256: str, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` up to `end`, in pieces; unverified. Raises FileNotFoundError before the first piece."""

    @abstractmethod
    def local(self, sha256: str) -> AbstractContextManager[Path]:
        """The path of a local file with this content, for the time of the `with`, checked against the hash.

        Read it, copy it or link it; never write to it. Raises FileNotFoundError and BlobDamaged.
        """

    @abstractmethod
    def delete(self, sha256: str) -> bool:
        """Remove the blob; False when it was not there. The caller knows that nothing refers to it."""

    @abstractmethod
    def stored(self) -> Iterator[StoredBlob]:
        """Every blob in the store."""

    def signed_url(self, sha256: str, *, media_type: str, disposition: str) -> str | None:
        """An address from which anybody may get the blob for a short time, or None where the store gives none."""
        del sha256, media_type, disposition
        return None


class LocalBlobs(BlobStore):
    """`<root>/<first two digits>/<sha256>` on a local disk.

    Plain files: workers link large ones into their folders, and each is on the disk (fsync) before a row names it.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._root = root
        self._checked = Checked()

    def path(self, sha256: str) -> Path:
        """Where the blob lies, whether or not it exists. Raises ValueError for what is no SHA-256."""
        return self._root / blob_key(sha256)

    def adopt(self, path: Path, sha256: str) -> None:
        """See BlobStore."""
        final = self.path(sha256)
        final.parent.mkdir(exist_ok=True)
        path.replace(final)
        descriptor = os.open(final.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def size_bytes(self, sha256: str) -> int:
        """See BlobStore."""
        return self.path(sha256).stat().st_size

    def chunks(self, sha256: str, start: int, end: int) -> Iterator[bytes]:
        """See BlobStore."""
        with self.path(sha256).open("rb") as file:
            file.seek(start)
            while start < end and (chunk := file.read(min(CHUNK_BYTES, end - start))):
                start += len(chunk)
                yield chunk

    @contextlib.contextmanager
    def local(self, sha256: str) -> Iterator[Path]:
        """See BlobStore."""
        path = self.path(sha256)
        self._checked.require(path, sha256)
        yield path

    def delete(self, sha256: str) -> bool:
        """See BlobStore."""
        with contextlib.suppress(FileNotFoundError):
            self.path(sha256).unlink()
            return True
        return False

    def stored(self) -> Iterator[StoredBlob]:
        """See BlobStore."""
        for path in self._root.glob("[0-9a-f][0-9a-f]/*"):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                modified_at = datetime.fromtimestamp(stat.st_mtime, UTC)
                yield StoredBlob(sha256=path.name, size_bytes=stat.st_size, modified_at=modified_at)


class Checked:
    """Local files whose hash this process has computed once; one that has changed since is computed again."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int, int]] = {}

    def require(self, path: Path, sha256: str) -> None:
        """Raise BlobDamaged unless the file at `path` has this hash, FileNotFoundError where there is none."""
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if self._seen.get(sha256) == seen:
                return
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise BlobDamaged(f"the stored file {sha256} is damaged")
        self._seen[sha256] = seen


def blob_key(sha256: str) -> str:
    """`<first two digits>/<sha256>`. Raises ValueError for what is no SHA-256."""
    if not _SHA256.fullmatch(sha256):
        raise ValueError(f"{sha256!r} is not a SHA-256 in hex digits")
    return f"{sha256[:2]}/{sha256}"


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of `content`; a write may take less than it is given when the disk fills up."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _modified_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # its writer has just finished
        return float("inf")
