"""Training images, drawn and augmented on the fly.

Letters: b = images of a batch, C = channels, H, W = height and width in pixels.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pruning.data import Split

SHIFT_SHARE = 8
"""Training images are shifted by at most a `1 / SHIFT_SHARE` of their side."""


def shuffled(
    split: Split,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    flip: bool,
    rows: Callable[[int], slice] = slice,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one epoch of augmented batches; the same seed and epoch give the same batches on every machine.

    Augmentation is light: a shift of at most an eighth of the side (borders are mirrored), and mirror images if `flip`.
    Of a batch of b images only `rows(b)` are made, as they are in the whole batch.
    """
    draw = np.random.default_rng([seed, epoch])
    order = draw.permutation(len(split))
    for start in range(0, len(split), batch_size):
        positions = order[start : start + batch_size]
        own = rows(len(positions))
        images = split.normalise(_augment(split.raw(positions[own]), draw, flip, len(positions), own))
        yield images, torch.from_numpy(split.labels[positions[own]])


def _augment(raw: Tensor, draw: np.random.Generator, flip: bool, count: int, own: slice) -> Tensor:
    """Return the augmented images of the `own` rows of a batch of `count`, for all of which is drawn."""
    _, _, height, width = raw.shape
    reach = max(1, min(height, width) // SHIFT_SHARE)
    padded = functional.pad(raw.float(), (reach,) * 4, mode="reflect").to(torch.uint8)
    top, left = (torch.from_numpy(draw.integers(0, 2 * reach + 1, count)[own]) for _ in range(2))
    rows = top[:, None] + torch.arange(height)
    columns = left[:, None] + torch.arange(width)
    if flip:
        mirrored = torch.from_numpy(draw.random(count)[own] < 0.5)
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    images = torch.arange(len(raw))[:, None, None]
    return padded[images, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
