"""Files on their way up and down: progress while they are sent, folders as zips, checked downloads."""

import hashlib
import io
import os
import secrets
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from secateur.errors import ChecksumMismatch, UsageError

ProgressCallback = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""

SPLITS = ("train", "val", "test")
EPOCH = (1980, 1, 1, 0, 0, 0)
"""One date for every entry, so that the same folder always makes the same bytes and the service knows it again."""
CHUNK_BYTES = 1 << 18


class ProgressFile(io.BufferedIOBase):
    """A file open for reading that says how much of it has been read. A context manager, like any file."""

    def __init__(self, path: Path, on_progress: ProgressCallback | None = None) -> None:
        """Open `path`; `on_progress` is called after each piece."""
        self._file = path.open("rb")
        self._on_progress = on_progress
        self.size_bytes = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next piece of the file."""
        piece = self._file.read(size)
        if self._on_progress and piece:
            self._on_progress(self._file.tell(), self.size_bytes)
        return piece

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move, as a file does; a second attempt begins again at 0."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._file.tell()

    def fileno(self) -> int:
        """Return the descriptor, from which the HTTP client learns the length."""
        return self._file.fileno()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


@contextmanager
def as_zip(path: Path, on_progress: ProgressCallback | None = None) -> Iterator[Path]:
    """Give the path of a zip for the time of the `with`: `path` itself, or a temporary one made of a folder."""
    if not path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="secateur-") as scratch:
        target = Path(scratch, f"{path.resolve().name or 'dataset'}.zip")
        zip_folder(path, target, on_progress)
        yield target


def zip_folder(folder: Path, target: Path, on_progress: ProgressCallback | None = None) -> None:
    """Write an ImageFolder tree as a zip, byte for byte the same each time.

    A folder whose own subfolders are the classes becomes the `train` split. Hidden files and links are left out.
    Images are compressed already, so they are stored as they are. Raises `UsageError` when there is nothing to take.
    """
    files = sorted(file for file in folder.rglob("*") if _taken(file, folder))
    if not files:
        raise UsageError(f"{folder} holds no files; a dataset is a folder of train/<class>/<image>")
    prefix = "" if any((folder / split).is_dir() for split in SPLITS) else "train/"
    total = sum(file.stat().st_size for file in files)
    done = 0
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            info = zipfile.ZipInfo(prefix + file.relative_to(folder).as_posix(), EPOCH)
            info.external_attr = 0o644 << 16
            with file.open("rb") as source, archive.open(info, "w", force_zip64=True) as sink:
                shutil.copyfileobj(source, sink, CHUNK_BYTES)
            done += file.stat().st_size
            if on_progress:
                on_progress(done, total)


def _taken(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return not hidden and not file.is_symlink() and file.is_file()


def save_checked(
    chunks: Iterable[bytes],
    target: Path,
    *,
    sha256: str,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Write `chunks` to `target` if and only if their SHA-256 is right: a temporary name first, then a rename.

    Raises `ChecksumMismatch`; then, as after any other failure, an older `target` is untouched and no piece is left.
    """
    digest = hashlib.sha256()
    done = 0
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            for chunk in chunks:
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if on_progress:
                    on_progress(done)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != sha256:
            raise ChecksumMismatch(target.name, sha256, digest.hexdigest())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def save_whole(content: bytes, target: Path) -> Path:
    """Write `content` to `target`, whole or not at all, and return the path."""
    save_checked([content], target, sha256=hashlib.sha256(content).hexdigest())
    return target


def has_sha256(path: Path, sha256: str) -> bool:
    """Return whether `path` is a file with this SHA-256."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256
