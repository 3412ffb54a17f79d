"""A mask as the indices of its pattern, and back.

Letters: R block-rows (or rows, where no tiles are), b = rows in one, P = taps, C = input channels, T = tiles in a
block-row, K' of them kept, N:M. Masks are bool [C_out, P, C]: the columns of the paper's matrix are taps times
channels, channels fastest.

Stored are, per block-row, the K' kept tiles ascending, then for every run of M channels that lies in a kept tile the N
kept ones ascending, run after run in the mask's order. Of a short last run of r < M channels min(N, r) are kept and
stored, in indices of the same width. A shared N:M choice is stored once for the rows and taps that share it. Source:
CRISP, arXiv 2311.14272; method section 2.
"""

from dataclasses import dataclass

import numpy as np

from lut.metadata import num_tiles, runs_fit_tiles
from lut.pattern import Pattern


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the kept weights of one layer sit."""

    tiles: np.ndarray
    """int64 [R, K']: kept tiles of each block-row, ascending; empty where the pattern has no tiles."""
    channels: np.ndarray
    """int64 [number of kept channels of all runs]: positions inside their runs; empty where there is no N:M."""


def find(mask: np.ndarray, pattern: Pattern) -> Places | None:
    """Return the places of a mask [C_out, P, C] that obeys the fitted `pattern`, or None where it does not."""
    c_out, taps, c_in = mask.shape
    if not runs_fit_tiles(pattern, c_in):
        return None
    tiles = np.zeros((0, 0), np.int64)
    if pattern.tile_out:
        kept = _tile_view(mask, pattern).any((1, 2, 4))
        count = pattern.num_kept_tiles(c_in, taps)
        if (kept.sum(1) != count).any():
            return None
        tiles = np.nonzero(kept)[1].reshape(-1, count)
    choice = _choice(mask, pattern)
    live = _live(tiles, pattern, *choice.shape)
    channels = np.zeros(0, np.int64)
    if pattern.m > 1:
        chosen = _runs(choice, pattern.m)
        if (chosen.sum(-1) != _run_counts(live, pattern)).any():
            return None
        channels = np.nonzero(chosen)[-1]
        live = choice
    return Places(tiles=tiles, channels=channels) if (_spread(live, c_out, taps) == mask).all() else None


def restore(places: Places, pattern: Pattern, shape: tuple[int, int, int], name: str) -> np.ndarray:
    """Return the mask [C_out, P, C] = `shape` that `find` described.

    Raises ValueError, naming `name`, for indices out of range, twice the same, or out of order.
    """
    c_out, taps, c_in = shape
    total = num_tiles(pattern, c_in, taps)
    if (places.tiles >= total).any():
        raise ValueError(f"{name}: a block-row has {total} tiles, found index {places.tiles.max()}")
    if (np.diff(places.tiles, axis=1) <= 0).any():
        raise ValueError(f"{name}: the tiles of a block-row overlap or are not in ascending order")
    rows, spans = (c_out // pattern.tile_out, 1) if pattern.shared else (c_out, taps)
    live = _live(places.tiles, pattern, rows, spans, c_in)
    if pattern.m > 1:
        live = _fill_runs(places.channels, live, pattern, name)
    return _spread(live, c_out, taps)


def _tile_view(mask: np.ndarray, pattern: Pattern) -> np.ndarray:
    """Return [R, b, P', T, B_in]: P' = P where tiles span the taps, 1 where the taps are cut into tiles."""
    c_out, taps, c_in = mask.shape
    spans, columns = (1, taps * c_in) if pattern.per_tap else (taps, c_in)
    return mask.reshape(c_out // pattern.tile_out, pattern.tile_out, spans, columns // pattern.tile_in, pattern.tile_in)


def _choice(mask: np.ndarray, pattern: Pattern) -> np.ndarray:
    """Return the mask without what a shared choice repeats: [R, 1, C] if shared, else the mask itself."""
    if not pattern.shared:
        return mask
    c_out, taps, c_in = mask.shape
    shared = mask.reshape(c_out // pattern.tile_out, 1, pattern.tile_out * taps, c_in)
    choice: np.ndarray = np.logical_or.reduce(shared, axis=2)
    return choice


def _spread(choice: np.ndarray, c_out: int, taps: int) -> np.ndarray:
    """Return [C_out, P, C]: the inverse of `_choice`."""
    repeats = c_out // choice.shape[0]
    return np.broadcast_to(np.repeat(choice, repeats, axis=0), (c_out, taps, choice.shape[2]))


def _live(tiles: np.ndarray, pattern: Pattern, rows: int, spans: int, c_in: int) -> np.ndarray:
    """Return bool [rows, spans, C]: which weights (or shared choices) lie in kept tiles."""
    if not pattern.tile_out:
        return np.ones((rows, spans, c_in), bool)
    kept = np.zeros((tiles.shape[0], num_tiles(pattern, c_in, spans)), bool)
    np.put_along_axis(kept, tiles, True, axis=1)
    columns = np.repeat(np.repeat(kept, pattern.tile_in, axis=1), rows // tiles.shape[0], axis=0)
    if pattern.per_tap:
        return columns.reshape(rows, spans, c_in)
    return np.repeat(columns[:, None], spans, axis=1)


def _runs(choice: np.ndarray, m: int) -> np.ndarray:
    """Return [rows, spans, runs, M], False past the end of a short last run; one run [.., C] where M exceeds C."""
    rows, spans, c_in = choice.shape
    m = min(m, c_in)
    padded = np.pad(choice, ((0, 0), (0, 0), (0, -c_in % m)))
    return padded.reshape(rows, spans, -1, m)


def _run_counts(live: np.ndarray, pattern: Pattern) -> np.ndarray:
    """Return int [rows, spans, runs]: channels each run keeps."""
    counts: np.ndarray = np.minimum(_runs(live, pattern.m).sum(-1), pattern.n)
    return counts


def _fill_runs(channels: np.ndarray, live: np.ndarray, pattern: Pattern, name: str) -> np.ndarray:
    runs = _runs(live, pattern.m)
    lengths = runs.sum(-1).reshape(-1)
    run = np.repeat(np.arange(len(lengths)), np.minimum(lengths, pattern.n))
    if len(run) != len(channels):
        raise ValueError(f"{name}: {len(run)} channels of {pattern.id} are kept, found {len(channels)}")
    if (channels >= lengths[run]).any():
        raise ValueError(f"{name}: an index lies outside its run of {pattern.m} channels")
    if ((np.diff(channels) <= 0) & (np.diff(run) == 0)).any():
        raise ValueError(f"{name}: the channels of a run overlap or are not in ascending order")
    chosen = np.zeros((len(lengths), runs.shape[-1]), bool)
    chosen[run, channels] = True
    rows, spans, c_in = live.shape
    return chosen.reshape(rows, spans, -1)[:, :, :c_in]
