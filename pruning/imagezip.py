"""Read an ImageFolder zip without trusting it: nothing is unpacked to disk, sizes are bounded before inflating.

Layout: `train/<class>/*`, optional `val/` and `test/`, possibly all inside one top folder. What a file manager adds
(`__MACOSX`, dot files, `Thumbs.db`) is passed over.
"""

import io
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from pruning.zipcheck import DataError, Limits, opened

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
JUNK_NAMES = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file of the zip that claims to be an image of a class."""

    info: zipfile.ZipInfo
    split: str
    class_name: str

    @property
    def path(self) -> str:
        """Name inside the zip, as the user wrote it."""
        return self.info.filename


@dataclass(frozen=True, kw_only=True)
class ZipSummary:
    """What a checked zip holds."""

    classes: tuple[str, ...]
    """Folder names under `train/`, sorted."""
    num_images: dict[str, int]
    """Decodable images by split: `train`, and `val`, `test` where the zip has them."""
    skipped: tuple[tuple[str, str], ...]
    """(path, reason) of every file that is not used."""


def inspect_zip(
    path: Path, limits: Limits | None = None, progress: Callable[[float], None] | None = None
) -> ZipSummary:
    """Return what the zip holds after decoding every image once.

    Raises:
        DataError: `not_a_zip`, `broken_zip`, `encrypted_zip`, `unsafe_path`, `duplicate_path`,
            `unsupported_compression`, `zip_bomb`, `too_many_files`, `no_train_split`, `empty_class`.
    """
    limits = limits or Limits()
    with open_members(path, limits) as (archive, members, skipped):
        members = list(members)
        good: Counter[tuple[str, str]] = Counter()
        failures = list(skipped)
        for member, outcome in decoded(archive, members, lambda data: _check_image(data, limits.max_pixels), progress):
            if isinstance(outcome, str):
                failures.append((member.path, outcome))
            else:
                good[member.split, member.class_name] += 1
        classes = check_classes(members, good)
    present = [split for split in ("train", "val", "test") if any(key[0] == split for key in good)]
    num_images = {split: sum(count for key, count in good.items() if key[0] == split) for split in present}
    return ZipSummary(classes=classes, num_images=num_images, skipped=tuple(failures))


@contextmanager
def open_members(path: Path, limits: Limits) -> Iterator[tuple[zipfile.ZipFile, list[Member], list[tuple[str, str]]]]:
    """Yield the open zip, its images and the files of no class, once its whole directory has passed the checks."""
    archive = opened(path, limits)
    with archive:
        yield archive, *_members(archive)


def decoded(
    archive: zipfile.ZipFile,
    members: Sequence[Member],
    decode: Callable[[bytes], np.ndarray | None],
    progress: Callable[[float], None] | None = None,
) -> Iterator[tuple[Member, np.ndarray | str | None]]:
    """Yield each member in order with what `decode` returned, or the reason (a string) why it did not decode."""

    def work(member: Member) -> np.ndarray | str | None:
        try:
            return decode(archive.read(member.info))
        except Exception as error:  # noqa: BLE001 - a decoder raises whatever a hostile file makes it raise
            return f"{type(error).__name__}: {error}"[:200].replace("\n", " ")

    chunk = 256  # bounds the decoded images in flight
    with ThreadPoolExecutor() as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for start in range(0, len(members), chunk):
            part = members[start : start + chunk]
            yield from zip(part, pool.map(work, part), strict=True)
            if progress:
                progress(min(1.0, (start + chunk) / len(members)))


def decode_image(data: bytes, image_size: int, channels: int, max_pixels: int) -> np.ndarray:
    """Return the image as uint8 [channels, image_size, image_size]: shorter side resized, centre cropped.

    An image that already has the size is left as it is. One channel means luminance, three mean RGB.
    """
    with _open_image(data, max_pixels) as image:
        image.draft(
            "RGB", (2 * image_size, 2 * image_size)
        )  # JPEG only: inflate at a coarser scale, still above the target
        picture = _to_mode(image, "L" if channels == 1 else "RGB")
    if picture.size != (image_size, image_size):
        scale = image_size / min(picture.size)
        width, height = (max(image_size, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
        left, top = (width - image_size) // 2, (height - image_size) // 2
        picture = picture.crop((left, top, left + image_size, top + image_size))
    pixels = np.asarray(picture, dtype=np.uint8)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def check_classes(members: Sequence[Member], good: Counter[tuple[str, str]]) -> tuple[str, ...]:
    """Return the sorted class names, each with at least one decodable training image."""
    classes = tuple(sorted({member.class_name for member in members if member.split == "train"}))
    if not classes:
        raise DataError("no_train_split", "the zip has no images under train/<class>/")
    empty = [name for name in classes if not good["train", name]]
    if empty:
        raise DataError("empty_class", f"no decodable image under train/ for class {', '.join(empty[:20])}")
    return classes


def _open_image(data: bytes, max_pixels: int) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > max_pixels:
        raise ValueError(f"{image.width} x {image.height} pixels, more than {max_pixels}")
    return image


def _check_image(data: bytes, max_pixels: int) -> None:
    with _open_image(data, max_pixels) as image:
        image.draft("RGB", (64, 64))  # the whole stream is still read, at a coarser scale
        image.load()


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip 16-bit greys at 255
        return Image.fromarray((np.asarray(image, dtype=np.uint16) >> 8).astype(np.uint8)).convert(mode)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)


def _members(archive: zipfile.ZipFile) -> tuple[list[Member], list[tuple[str, str]]]:
    files = [(entry, PurePosixPath(entry.filename).parts) for entry in archive.infolist() if not _is_junk(entry)]
    tops = {parts[0] for _, parts in files}
    if len(tops) == 1 and not tops & SPLITS.keys():
        files = [(entry, parts[1:]) for entry, parts in files]
    members: list[Member] = []
    skipped: list[tuple[str, str]] = []
    folders: set[str] = set()
    for entry, parts in files:
        split = SPLITS.get(parts[0]) if parts else None
        if entry.is_dir():
            if split == "train" and len(parts) == 2:
                folders.add(parts[1])
        elif split is None:
            skipped.append((entry.filename, "not under train/, val/ or test/"))
        elif len(parts) < 3:
            skipped.append((entry.filename, "not in a class folder"))
        else:
            members.append(Member(info=entry, split=split, class_name=parts[1]))
    return _of_known_classes(members, folders, skipped)


def _of_known_classes(
    members: list[Member], folders: set[str], skipped: list[tuple[str, str]]
) -> tuple[list[Member], list[tuple[str, str]]]:
    trained = {member.class_name for member in members if member.split == "train"}
    empty = sorted(folders - trained)
    if empty and trained:
        raise DataError("empty_class", f"train/{empty[0]}/ holds no file")
    stray = [
        (member.path, "its class has no folder under train/") for member in members if member.class_name not in trained
    ]
    return [member for member in members if member.class_name in trained], skipped + (stray if trained else [])


def _is_junk(entry: zipfile.ZipInfo) -> bool:
    return any(part in JUNK_NAMES or part.startswith(".") for part in PurePosixPath(entry.filename).parts)
