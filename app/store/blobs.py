"""Files by the SHA-256 of their content, in a local folder."""

import contextlib
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

CHUNK_BYTES = 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Blob:
    """A stored file."""

    sha256: str
    size_bytes: int


class BlobWriter:
    """A file being written: `write` the chunks, then `commit`; leaving the `with` block before that leaves nothing."""

    def __init__(self, store: "BlobStore") -> None:
        self._store = store
        self._path = store.temporary_path()
        self._file = self._path.open("xb")
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def write(self, chunk: bytes) -> None:
        """Append `chunk`."""
        self._file.write(chunk)
        self._hash.update(chunk)
        self.size_bytes += len(chunk)

    @property
    def sha256(self) -> str:
        """Of what was written so far."""
        return self._hash.hexdigest()

    def commit(self) -> Blob:
        """Flush to the disk, give the file its name and return it."""
        self._file.flush()
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


class BlobStore:
    """`<root>/<first two digits>/<sha256>`; a name is only ever given to a complete file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "tmp").mkdir(parents=True, exist_ok=True)

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

    def path(self, sha256: str) -> Path:
        """Where the blob lies, whether or not it exists. Raises ValueError for what is no SHA-256."""
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"{sha256!r} is not a SHA-256 in hex digits")
        return self.root / sha256[:2] / sha256

    def exists(self, sha256: str) -> bool:
        """True when the blob is stored."""
        return self.path(sha256).is_file()

    def read_bytes(self, sha256: str) -> bytes:
        """The whole content; raises FileNotFoundError when it is not stored."""
        return self.path(sha256).read_bytes()

    def delete(self, sha256: str) -> bool:
        """Remove the blob; False when it was not there. The caller knows that nothing refers to it."""
        with contextlib.suppress(FileNotFoundError):
            self.path(sha256).unlink()
            return True
        return False

    def temporary_path(self) -> Path:
        """A fresh name on the same file system, for a file that is not complete yet."""
        return self.root / "tmp" / secrets.token_hex(16)

    def adopt(self, path: Path, sha256: str) -> None:
        """Give the complete, flushed file at `path` its final name, and make the name durable."""
        final = self.path(sha256)
        final.parent.mkdir(exist_ok=True)
        path.replace(final)
        descriptor = os.open(final.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def delete_stale_temporaries(self, older_than_s: float) -> int:
        """Remove what interrupted writers left behind; returns how many files."""
        limit = time.time() - older_than_s
        stale = [path for path in self._temporaries() if path.stat().st_mtime < limit]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    def _temporaries(self) -> Iterator[Path]:
        yield from (self.root / "tmp").iterdir()
