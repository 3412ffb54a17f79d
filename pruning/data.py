"""Images of the user's classes, decoded once, in three splits; batches are normalised on the fly.

Which split is which: the *reported* split is `test/` if the zip has it, else `val/`, else a fifth of `train/` held out.
The *selection* split (it chooses epochs and learning rates) is `val/` when a `test/` stands beside it, else a tenth of
what is left of `train/`. What is reported never chooses anything.

Letters: N = decoded images, n = images of a split, b = images of a batch, C = channels, S = image size in pixels.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pruning.imagezip import (
    ZipSummary,
    check_classes,
    decode_image,
    decoded,
    inspect_zip,
    open_members,
)
from pruning.zipcheck import DataError, Limits

__all__ = ["DataError", "Dataset", "Limits", "Split", "ZipSummary", "inspect_zip", "load"]

REPORTED_SHARE = 0.2
SELECTION_SHARE = 0.1
MAX_SELECTION_IMAGES = 2000
CACHE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Split:
    """A part of the decoded images; label k is the k-th of the classes that were asked for."""

    source: str
    """Where the images come from, in words: `test/`, `10 % of train/`."""
    pixels: np.ndarray
    """uint8 [N, C, S, S], shared by all splits, possibly mapped from disk."""
    index: np.ndarray
    """int64 [n]: rows of `pixels`."""
    labels: np.ndarray
    """int64 [n]."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Per channel, of pixels scaled to 0..1."""

    def __len__(self) -> int:
        return len(self.index)

    def raw(self, positions: np.ndarray) -> Tensor:
        """Return the images at these positions of the split as uint8 [b, C, S, S]."""
        return torch.from_numpy(np.ascontiguousarray(self.pixels[self.index[positions]]))

    def normalise(self, raw: Tensor) -> Tensor:
        """Return uint8 [b, C, S, S] as float32 with the split's mean and standard deviation taken out."""
        mean, std = torch.tensor(self.mean).view(1, -1, 1, 1), torch.tensor(self.std).view(1, -1, 1, 1)
        return (raw.float() / 255 - mean) / std

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images float32 [b, C, S, S], labels int64 [b]) in order."""
        for start in range(0, len(self), batch_size):
            positions = np.arange(start, min(start + batch_size, len(self)))
            yield self.normalise(self.raw(positions)), torch.from_numpy(self.labels[positions])

    def take(self, num_images: int, seed: int = 0) -> "Split":
        """Return at most `num_images` of them, drawn at random and evenly over the classes."""
        order = _interleaved(self.labels, np.random.default_rng(seed))[:num_images]
        return replace(self, index=self.index[order], labels=self.labels[order])


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The images of the user's classes, split."""

    classes: tuple[str, ...]
    """In the order of the labels."""
    train: Split
    selection: Split
    reported: Split
    flip: bool
    """Whether mirroring keeps the class: true when more than half of the training images hold colour (photographs).
    Digits, scans and radiographs are grey, and there left and right may mean something."""
    skipped: tuple[tuple[str, str], ...]
    """(path, reason) of the images of these classes that did not decode."""


def load(
    path: Path,
    *,
    classes: Sequence[str],
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    channels: int = 3,
    seed: int = 0,
    cache: Path | None = None,
    limits: Limits | None = None,
    progress: Callable[[float], None] | None = None,
) -> Dataset:
    """Return the images of `classes` in their three splits.

    With `cache`, a folder, decoded pixels are kept there and mapped: a second call (another process) reads no image.
    The splits depend on the zip, the classes and the seed alone.

    Raises:
        DataError: all of `inspect_zip`, and `unknown_class`, `empty_class` (also in `val/` or `test/`),
            `too_few_images` (a class cannot be split).
    """
    if len(mean) != channels or len(std) != channels:
        raise ValueError(f"mean and std must have one entry for each of the {channels} channels")
    pixels, rows, skipped = _decode_or_reuse(
        path, tuple(classes), image_size, channels, cache, limits or Limits(), progress
    )
    whole = Split(source="", pixels=pixels, index=rows[:, 0], labels=rows[:, 2], mean=tuple(mean), std=tuple(std))
    parts = {split: _where(whole, rows[:, 1] == code, f"{split}/") for code, split in enumerate(_SPLIT_CODES)}
    train, selection, reported = _three_way(parts, classes, seed)
    return Dataset(
        classes=tuple(classes),
        train=train,
        selection=selection,
        reported=reported,
        flip=_mostly_colour(train),
        skipped=skipped,
    )


_SPLIT_CODES = ("train", "val", "test")


def _decode_or_reuse(
    path: Path,
    classes: tuple[str, ...],
    image_size: int,
    channels: int,
    cache: Path | None,
    limits: Limits,
    progress: Callable[[float], None] | None,
) -> tuple[np.ndarray, np.ndarray, tuple[tuple[str, str], ...]]:
    """Return pixels [N, C, S, S], rows int64 [n, 3] of (row of pixels, split, label), and what was skipped."""
    if cache is None:
        return _decode(path, classes, image_size, channels, None, limits, progress)
    stem = cache / f"images-{_cache_key(path, classes, image_size, channels)}"
    index_path = stem.with_suffix(".json")
    if not index_path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        partial = stem.with_suffix(f".{os.getpid()}.partial")
        _, rows, skipped = _decode(path, classes, image_size, channels, partial, limits, progress)
        partial.replace(stem.with_suffix(".npy"))
        partial.write_text(json.dumps({"rows": rows.tolist(), "skipped": skipped}))
        partial.replace(index_path)  # written last: its presence says that the pixels are whole
    saved = json.loads(index_path.read_text())
    pixels = np.load(stem.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
    rows = np.asarray(saved["rows"], dtype=np.int64).reshape(-1, 3)
    return pixels, rows, tuple((name, reason) for name, reason in saved["skipped"])


def _decode(
    path: Path,
    classes: tuple[str, ...],
    image_size: int,
    channels: int,
    target: Path | None,
    limits: Limits,
    progress: Callable[[float], None] | None,
) -> tuple[np.ndarray, np.ndarray, tuple[tuple[str, str], ...]]:
    label_of = {name: label for label, name in enumerate(classes)}
    with open_members(path, limits) as (archive, found, _):
        known = {member.class_name for member in found}
        unknown = [name for name in classes if name not in known]
        if unknown:
            names = ", ".join(sorted(known)[:50])
            raise DataError("unknown_class", f"no class {', '.join(unknown[:20])} in the data set; it has {names}")
        members = [member for member in found if member.class_name in label_of]
        shape = (len(members), channels, image_size, image_size)
        pixels = (
            np.empty(shape, np.uint8)
            if target is None
            else np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=shape)
        )
        rows, skipped, good = [], [], Counter[tuple[str, str]]()
        outcomes = decoded(
            archive, members, lambda data: decode_image(data, image_size, channels, limits.max_pixels), progress
        )
        for row, (member, outcome) in enumerate(outcomes):
            if isinstance(outcome, np.ndarray):
                pixels[row] = outcome
                rows.append((row, _SPLIT_CODES.index(member.split), label_of[member.class_name]))
                good[member.split, member.class_name] += 1
            else:
                skipped.append((member.path, str(outcome)))
    check_classes(members, good)
    return pixels, np.asarray(rows, dtype=np.int64).reshape(-1, 3), tuple(skipped)


def _cache_key(path: Path, classes: tuple[str, ...], image_size: int, channels: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    digest.update(json.dumps([CACHE_VERSION, classes, image_size, channels]).encode())
    return digest.hexdigest()[:32]


def _three_way(parts: dict[str, Split], classes: Sequence[str], seed: int) -> tuple[Split, Split, Split]:
    """Return train, selection, reported as the rule at the head of this module says."""
    draw = np.random.default_rng([seed, 0])
    train, val, test = parts["train"], parts["val"], parts["test"]
    if len(test) or len(val):
        reported = test if len(test) else val
    else:
        train, reported = _hold_out(train, REPORTED_SHARE, None, draw, classes)
    if len(test) and len(val):
        selection = val
    else:
        train, selection = _hold_out(train, SELECTION_SHARE, MAX_SELECTION_IMAGES, draw, classes)
    for split in (reported, selection):
        missing = [name for label, name in enumerate(classes) if label not in split.labels]
        if missing:
            raise DataError("empty_class", f"no decodable image of class {', '.join(missing[:20])} in {split.source}")
    return train, selection, reported


def _hold_out(
    split: Split, share: float, at_most: int | None, draw: np.random.Generator, classes: Sequence[str]
) -> tuple[Split, Split]:
    """Return (rest, held back): `share` of each class, at least one image of each, about `at_most` in all."""
    held = np.zeros(len(split), dtype=bool)
    if at_most is not None:
        share = min(share, at_most / len(split))
    for label, name in enumerate(classes):
        own = np.flatnonzero(split.labels == label)
        if len(own) < 2:
            raise DataError(
                "too_few_images", f"class {name} has too few images to split: at least 3, or val/ and test/"
            )
        held[draw.permutation(own)[: max(1, int(share * len(own)))]] = True
    return _where(split, ~held, split.source), _where(split, held, f"{100 * share:.0f} % of {split.source}")


def _where(split: Split, mask: np.ndarray, source: str) -> Split:
    return replace(split, source=source, index=split.index[mask], labels=split.labels[mask])


def _interleaved(labels: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Return a random order of the labels' positions in which every prefix holds the classes as evenly as can be."""
    order = draw.permutation(len(labels))
    seen: Counter[int] = Counter()
    turn = np.empty(len(labels), dtype=np.int64)
    for place, position in enumerate(order):
        turn[place] = seen[int(labels[position])]
        seen[int(labels[position])] += 1
    return order[np.argsort(turn, kind="stable")]


def _mostly_colour(split: Split) -> bool:
    sample = split.pixels[split.take(256).index]
    if sample.shape[1] == 1:
        return False
    spread = sample.max(axis=1).astype(np.int64) - sample.min(axis=1)
    return bool((spread.reshape(len(sample), -1).max(axis=1) > 8).mean() > 0.5)
