"""Proof that a mask obeys its pattern: counts over numbered runs and tiles, sharing no code with `masks`."""

import numpy as np
import torch
from torch import Tensor

from lut.pattern import Pattern

SHAPE, DTYPE, EMPTY, FITS = "shape", "dtype", "empty", "fits"
RUNS, TILES, PURITY, LISTS, DENSITY = "runs", "tiles", "purity", "lists", "density"
INVARIANTS = {
    SHAPE: "a mask is [C_out, C_in], [C_out, C_in, k] or [C_out, C_in, kh, kw]",
    DTYPE: "a mask is bool",
    EMPTY: "a mask keeps something of its layer",
    FITS: "the pattern's tiles divide the layer",
    RUNS: "N of M: no run keeps more than N, and one whose tiles all stay keeps min(N, its length)",
    TILES: "every block-row keeps the same number of tiles, the one its pattern says",
    PURITY: "without N:M, a tile stays as a whole or goes as a whole",
    LISTS: "the rows of a block-row and all taps of a lowerable pattern keep the same input channels, as many as it says",
    DENSITY: "a mask keeps as many weights as its pattern says",
}


class MaskError(ValueError):
    """A mask breaks `invariant`, one of `INVARIANTS`."""

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {INVARIANTS[invariant]}; {detail}")
        self.invariant = invariant


def check_mask(mask: Tensor, pattern: Pattern, *, nested: bool = False) -> None:
    """Raise MaskError, naming the invariant, when a mask does not obey `pattern` as fitted to its layer.

    `nested` is for a mask chosen within another one: it may keep less than the pattern says, never more.
    """
    if mask.ndim not in (2, 3, 4) or not mask.numel():
        raise MaskError(SHAPE, f"this one is {tuple(mask.shape)}")
    if mask.dtype != torch.bool:
        raise MaskError(DTYPE, f"this one is {mask.dtype}")
    if not mask.any():
        raise MaskError(EMPTY, "this one keeps nothing")
    c_out, c_in = mask.shape[:2]
    num_taps = mask.numel() // (c_out * c_in)
    try:
        fitted = pattern.fitted(c_in, c_out, num_taps)
    except ValueError as error:
        raise MaskError(FITS, str(error)) from error
    kept = mask.cpu().numpy().reshape(c_out, c_in, num_taps)
    exact = not nested and _runs_lie_in_tiles(fitted, c_in, num_taps)
    in_kept_tiles = _check_tiles(kept, fitted, exact) if fitted.tile_out else np.ones_like(kept)
    if fitted.m > 1:
        _check_runs(kept, fitted, in_kept_tiles, nested)
    if fitted.lowerable:
        _check_lists(kept, fitted, nested)
    _check_density(kept, fitted, exact)


def _runs_lie_in_tiles(fitted: Pattern, c_in: int, num_taps: int) -> bool:
    """Return whether no run of M channels straddles two tiles."""
    if fitted.m == 1 or not fitted.tile_out:
        return True
    cuts = range(fitted.tile_in, c_in * num_taps if fitted.per_tap else c_in, fitted.tile_in)
    return all(cut % c_in % fitted.m == 0 for cut in cuts)


def _check_tiles(kept: np.ndarray, fitted: Pattern, exact: bool) -> np.ndarray:
    """Check the tiles of every block-row; return bool [C_out, C_in, taps]: the weights of tiles that stay."""
    c_out, c_in, num_taps = kept.shape
    row, channel, tap = np.ogrid[:c_out, :c_in, :num_taps]
    column = tap * c_in + channel if fitted.per_tap else channel + 0 * tap
    per_row = (c_in * num_taps if fitted.per_tap else c_in) // fitted.tile_in
    tile = (row // fitted.tile_out) * per_row + column // fitted.tile_in
    num_tiles = c_out // fitted.tile_out * per_row
    count = np.bincount(tile.ravel(), weights=kept.ravel(), minlength=num_tiles)
    stays = count > 0
    wanted = fitted.num_kept_tiles(c_in, num_taps)
    found = stays.reshape(-1, per_row).sum(axis=1)
    if (found > wanted).any() or (exact and (found < wanted).any()):
        raise MaskError(TILES, f"{fitted.id} keeps {wanted} of {per_row}, the block-rows keep {found.tolist()}")
    broken = stays & (count < kept.size // num_tiles)
    if fitted.m == 1 and exact and broken.any():
        first = int(np.flatnonzero(broken)[0])
        raise MaskError(PURITY, f"tile {first % per_row} of block-row {first // per_row} stays in part")
    in_kept_tiles: np.ndarray = stays[tile]
    return in_kept_tiles


def _check_runs(kept: np.ndarray, fitted: Pattern, in_kept_tiles: np.ndarray, nested: bool) -> None:
    """Check N:M along the input channels, for each row and tap."""
    starts = np.arange(0, kept.shape[1], fitted.m)
    found = np.add.reduceat(kept.astype(np.int64), starts, axis=1)
    possible = np.add.reduceat(in_kept_tiles.astype(np.int64), starts, axis=1)
    length = np.diff(np.append(starts, kept.shape[1]))[None, :, None]
    short = (possible == length) & (found < np.minimum(fitted.n, length)) & (not nested)
    wrong = np.argwhere((found > fitted.n) | short)
    if len(wrong):
        row, run, tap = wrong[0].tolist()
        raise MaskError(RUNS, f"run {run} of row {row} at tap {tap} keeps {found[row, run, tap]} under {fitted.id}")


def _check_lists(kept: np.ndarray, fitted: Pattern, nested: bool) -> None:
    """Check that each block-row reads one list of input channels, no longer than the pattern says."""
    wanted = fitted.num_kept_channels(kept.shape[1])
    for start in range(0, len(kept), fitted.tile_out):
        rows = kept[start : start + fitted.tile_out]
        anywhere, everywhere = rows.any(axis=(0, 2)), rows.all(axis=(0, 2))
        length = int(anywhere.sum())
        if length > wanted or (not nested and (length < wanted or not np.array_equal(anywhere, everywhere))):
            detail = f"rows {start} to {start + fitted.tile_out - 1} read {length} channels, {everywhere.sum()} in full"
            raise MaskError(LISTS, f"{fitted.id} wants {wanted} of them; {detail}")


def _check_density(kept: np.ndarray, fitted: Pattern, exact: bool) -> None:
    """Check the number of kept weights against the pattern's own numbers."""
    c_out, c_in, num_taps = kept.shape
    columns = c_in * num_taps if fitted.per_tap else c_in
    in_tiles = (
        kept.size * fitted.num_kept_tiles(c_in, num_taps) * fitted.tile_in // columns if fitted.tile_out else kept.size
    )
    in_runs = c_out * num_taps * (c_in // fitted.m * fitted.n + min(fitted.n, c_in % fitted.m))
    whole = c_in % fitted.m == 0
    most = in_tiles * fitted.n // fitted.m if whole and exact else min(in_tiles, in_runs)
    if int(kept.sum()) > most or (exact and (whole or not fitted.tile_out) and int(kept.sum()) < most):
        raise MaskError(DENSITY, f"{fitted.id} keeps {most} of {kept.size}, this one {int(kept.sum())}")
