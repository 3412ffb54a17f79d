"""Scratch folders: where a step's inputs are placed and its outputs found."""

import contextlib
import os
import shutil
from pathlib import Path
from uuid import uuid4

from workers.context import OUTBOX

COPY_BELOW_BYTES = 64 << 20
CACHED_FILES = 4


class Scratch:
    """The scratch folders of one boot of one worker, `<root>/<slot>+<boot>/`, and its slot's cache beside them."""

    def __init__(self, root: Path, slot: str, boot: str) -> None:
        self._slot = slot.replace("/", "+")
        self._root = root
        self._own = root / f"{self._slot}+{boot}"
        self._cache = root.with_name("cache") / self._slot

    def sweep(self) -> None:
        """Remove what older boots of this slot left; the caller holds the slot, so none of them lives."""
        for folder in self._root.glob(f"{self._slot}+*"):
            if folder != self._own:
                shutil.rmtree(folder, ignore_errors=True)

    def make(self, label: str) -> Path:
        """Return a new empty folder that only this user can read."""
        folder = self._own / f"{label}-{uuid4().hex[:8]}"
        folder.mkdir(parents=True, mode=0o700)
        return folder

    def remove(self, folder: Path) -> None:
        """Remove a folder that `make` returned, with everything in it."""
        # What a just-killed grandchild still writes can make the first pass fail on a folder that is not empty.
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
            return
        shutil.rmtree(folder, ignore_errors=True)

    def cache(self) -> Path:
        """Return the folder in which steps keep what later steps would compute again; only the newest files stay.

        A step that still reads a file removed here has it open, so nothing breaks.
        """
        self._cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        for old in sorted(self._cache.iterdir(), key=lambda path: path.stat().st_mtime)[:-CACHED_FILES]:
            old.unlink()
        return self._cache

    def close(self) -> None:
        """Remove the folders of this boot."""
        shutil.rmtree(self._own, ignore_errors=True)


def place(blob: Path, folder: Path, name: str) -> None:
    """Make the stored file available in `folder` under `name`, read-only.

    Small files are copied, so that no step, not even one run as root, can change what is stored; large ones are linked.
    """
    target = inside(folder, name)
    target.parent.mkdir(parents=True, exist_ok=True)
    if blob.stat().st_size >= COPY_BELOW_BYTES:
        with contextlib.suppress(OSError):  # another file system, or one without links
            os.link(blob, target)
            return
    shutil.copyfile(blob, target)
    target.chmod(0o444)


def restore(blob: Path, folder: Path, name: str) -> None:
    """Put a checkpoint back under its name as the step's own, writable file."""
    target = inside(folder, name)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(blob, target)


def found(folder: Path, name: str) -> Path | None:
    """Return the path of an output the step left, or None; a link is not an output."""
    path = inside(folder, name)
    return (
        path if path.is_file() and not path.is_symlink() and path.resolve().is_relative_to(folder.resolve()) else None
    )


def taken(folder: Path, file: str) -> Path | None:
    """Return the path of a checkpoint copy in the outbox, or None."""
    return found(folder, f"{OUTBOX}/{file}")


def inside(folder: Path, name: str) -> Path:
    """Return `folder / name`; raise ValueError for a name that leads out of the folder."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{name!r} is not a name inside the scratch folder")
    return folder / path
