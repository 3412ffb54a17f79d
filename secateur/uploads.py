"""Big files in several pieces: a line that breaks costs one piece, not the file."""

import base64
import hashlib
import time
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from secateur.errors import ApiError, ConnectionFailed, UsageError
from secateur.files import ProgressCallback
from secateur.transport import INSPECT_TIMEOUT_S, Transport
from secateur.upload_schemas import CHECKSUM, OFFSET, PIECE, Purpose, Upload, UploadCreate

T = TypeVar("T")

RESUMABLE_BYTES = 32 << 20
"""Files from this size on go in pieces."""
PIECE_BYTES = 8 << 20
LONGEST_PAUSE_S = 8.0


def send_file(
    transport: Transport,
    path: str,
    file: Path,
    fields: dict[str, Any],
    kind: type[T],
    *,
    purpose: Purpose,
    patience_s: float,
    on_progress: ProgressCallback | None = None,
) -> T:
    """Send a file with its fields to `path` and return the resource it became: small ones at once, big ones in pieces.

    Fields that are None are left out. A line that breaks while pieces are sent is mended for `patience_s` seconds.
    """
    if not file.is_file() or file.stat().st_size < RESUMABLE_BYTES:
        return transport.upload(path, file, fields, kind, on_progress)
    upload_id = _Sender(transport, file, patience_s, on_progress).send(purpose)
    body = {"upload_id": upload_id, **{key: value for key, value in fields.items() if value is not None}}
    response = transport.request("POST", path, body=lambda: {"json": body}, timeout_s=INSPECT_TIMEOUT_S)
    return transport.read(response, kind)


class _Sender:
    def __init__(
        self, transport: Transport, file: Path, patience_s: float, on_progress: ProgressCallback | None
    ) -> None:
        self._transport, self._file, self._patience_s = transport, file, patience_s
        self._on_progress = on_progress or (lambda done, total: None)

    def send(self, purpose: Purpose) -> str:
        """Send every byte and return the upload's id."""
        size_bytes = self._file.stat().st_size
        body = UploadCreate(purpose=purpose, size_bytes=size_bytes)
        upload = self._transport.read(self._transport.request("POST", "/v1/uploads", model=body), Upload)
        path = f"/v1/uploads/{quote(upload.id, safe='')}"
        offset, pause_s, deadline = upload.offset, 0.2, time.monotonic() + self._patience_s
        while offset < size_bytes:
            try:
                offset = self._piece(path, offset)
            except (ApiError, ConnectionFailed) as error:
                if not _passes(error) or time.monotonic() + pause_s > deadline:
                    raise
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                offset = self._offset(path, offset)
            else:
                self._on_progress(offset, size_bytes)
                pause_s, deadline = 0.2, time.monotonic() + self._patience_s
        return upload.id

    def _piece(self, path: str, offset: int) -> int:
        with self._file.open("rb") as file:
            file.seek(offset)
            piece = file.read(PIECE_BYTES)
        if not piece:
            raise UsageError(f"{self._file} became shorter while it was sent")
        digest = base64.b64encode(hashlib.sha256(piece).digest()).decode()
        headers = {OFFSET: str(offset), CHECKSUM: f"sha256 {digest}", "Content-Type": PIECE}
        self._transport.request("PATCH", path, headers=headers, body=lambda: {"content": piece})
        return offset + len(piece)

    def _offset(self, path: str, offset: int) -> int:
        """Where the service says to go on; where it says nothing, as before."""
        try:
            return self._transport.get(path, Upload).offset
        except ConnectionFailed:
            return offset
        except ApiError as error:
            if not _passes(error):
                raise
            return offset


def _passes(error: ApiError | ConnectionFailed) -> bool:
    """True for what may go well when it is tried again."""
    if isinstance(error, ConnectionFailed):
        return True
    again = error.problem.code in ("offset_mismatch", "upload_busy", "checksum_mismatch")
    return again or (error.problem.status >= 500 and error.problem.code != "storage_full")
