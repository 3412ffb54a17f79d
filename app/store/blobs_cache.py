"""Local copies of blobs that are kept elsewhere: verified, bounded in bytes, the least recently used go first.

Several processes share the folder. A file in use is locked (shared), and only what nobody has locked is removed.
"""

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from app.store.blobs import BlobDamaged, Checked

_STALE_S = 86_400.0
_PART = ".part"


class BlobCache:
    """Files by their SHA-256 in one folder."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._max_bytes = max_bytes
        self._checked = Checked()

    @contextlib.contextmanager
    def local(self, sha256: str, size_bytes: int, fetch: Callable[[Path], None]) -> Iterator[Path]:
        """The path of the file, kept for the time of the `with`; where it is not here, or damaged, `fetch` writes it.

        Raises BlobDamaged when what was fetched has another hash.
        """
        path = self._folder / sha256
        held = self._held(path, sha256)
        while held is None:  # somebody else may make room for another file right after we fetched this one
            self._make_room(size_bytes)
            self._fetch(path, sha256, fetch)
            held = self._held(path, sha256)
        try:
            yield path
        finally:
            os.close(held)

    def _held(self, path: Path, sha256: str) -> int | None:
        """A descriptor that locks the file against removal; None where there is no good file."""
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        with contextlib.suppress(FileNotFoundError, BlobDamaged):
            stat = os.fstat(descriptor)
            if path.stat().st_ino == stat.st_ino:
                self._checked.require(path, sha256)
                os.utime(path, ns=(time.time_ns(), stat.st_mtime_ns))  # access time says what was used last
                return descriptor
        os.close(descriptor)
        return None

    def _fetch(self, path: Path, sha256: str, fetch: Callable[[Path], None]) -> None:
        part = self._folder / f"{secrets.token_hex(8)}{_PART}"
        try:
            fetch(part)
            Checked().require(part, sha256)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _make_room(self, size_bytes: int) -> None:
        """Remove what was used longest ago until `size_bytes` more fit, and parts that a killed process left."""
        files = sorted(self._files(), key=lambda file: file[1].st_atime_ns)
        total_bytes = size_bytes + sum(stat.st_size for _, stat in files)
        for path, stat in files:
            stale = path.suffix == _PART and time.time() - stat.st_mtime > _STALE_S
            if stale or (path.suffix != _PART and total_bytes > self._max_bytes and _unused(path)):
                path.unlink(missing_ok=True)
                total_bytes -= stat.st_size

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                yield path, path.stat()


def _unused(path: Path) -> bool:
    """True when no process has the file locked."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:
        return False
