"""Bilinear interpolation over the points that happen to be measured: grids, lines, diagonals, and unions of them; by pieces.

Letters: i = input channels, o = output channels; a cell is a rectangle of channel counts whose four corners are
measured.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import combinations, pairwise, product

import numpy as np

from lut.pieces import Cut


class Surface:
    """Microseconds as a function of (c_in, c_out): the measured value at a measured point, bilinear in the smallest
    cell around any other.

    A cell may be a line (one side has one channel count). Between two measured points (a, a) and (b, b) with nothing
    better around, a point on the diagonal is interpolated along it, so that operators with c_in = c_out need one
    measurement a width. Outside every cell: NaN.
    """

    def __init__(self, values: Mapping[tuple[int, int], float]) -> None:
        """Take `values` in microseconds by (c_in, c_out); `axes` are the measured counts on each side."""
        self._measured = dict(values)
        self._values = {**_turned(_crossings(_turned(values))), **_crossings(values), **values}
        self.axes = (frozenset(i for i, _ in values), frozenset(o for _, o in values))
        self._cells = _cells(self._values)
        self._diagonal = sorted(i for i, o in self._values if i == o)

    def grid(self, c_ins: np.ndarray, c_outs: np.ndarray) -> np.ndarray:
        """Return float64 [len(c_ins), len(c_outs)] microseconds, NaN where not covered."""
        (ins, back_i), (outs, back_o) = (np.unique(counts, return_inverse=True) for counts in (c_ins, c_outs))
        return self._ascending_grid(ins, outs)[np.ix_(back_i, back_o)]

    def _ascending_grid(self, ins: np.ndarray, outs: np.ndarray) -> np.ndarray:
        at_i, at_o = ({int(c): k for k, c in enumerate(counts)} for counts in (ins, outs))
        measured = np.full((len(ins), len(outs)), np.nan)
        for (i, o), value in self._values.items():
            if i in at_i and o in at_o:
                measured[at_i[i], at_o[o]] = value
        asked = np.isnan(measured)
        result = np.full(measured.shape, np.nan)
        for channels in at_i.keys() & at_o.keys():
            result[at_i[channels], at_o[channels]] = self._along_diagonal(channels)
        # From the widest cell to the narrowest: the last one written is the closest to the point.
        for cell, rows, columns in self._cells_around(asked, ins, outs):
            result[rows, columns] = self._bilinear(cell, ins[rows], outs[columns])
        return np.where(asked, result, measured)

    def _cells_around(
        self, asked: np.ndarray, ins: np.ndarray, outs: np.ndarray
    ) -> Iterator[tuple[tuple[int, int, int, int], slice, slice]]:
        """Yield the cells that hold a point in `asked`, bool [len(ins), len(outs)], with where their points are."""
        if not asked.any() or not len(self._cells):
            return
        low_i, high_i, low_o, high_o = np.array(self._cells).T
        top, bottom = np.searchsorted(ins, low_i, "left"), np.searchsorted(ins, high_i, "right")
        left, right = np.searchsorted(outs, low_o, "left"), np.searchsorted(outs, high_o, "right")
        before = np.zeros((len(ins) + 1, len(outs) + 1), dtype=np.int64)
        before[1:, 1:] = asked.cumsum(0).cumsum(1)
        count = before[bottom, right] - before[top, right] - before[bottom, left] + before[top, left]
        for k in np.flatnonzero(count):
            yield self._cells[k], slice(top[k], bottom[k]), slice(left[k], right[k])

    def at_least(self, c_ins: Sequence[int], c_outs: Sequence[int]) -> np.ndarray:
        """Return float64 [len(c_ins), len(c_outs)]: the least value measured with at least as many channels on both
        sides; NaN where there is none.
        """
        points = np.array(list(self._measured))
        values = np.array(list(self._measured.values()))
        grid = np.full((len(c_ins), len(c_outs)), np.nan)
        for row, c_in in enumerate(c_ins):
            for column, c_out in enumerate(c_outs):
                larger = values[(points[:, 0] >= c_in) & (points[:, 1] >= c_out)]
                grid[row, column] = larger.min() if len(larger) else np.nan
        return grid

    def _bilinear(self, cell: tuple[int, int, int, int], c_ins: np.ndarray, c_outs: np.ndarray) -> np.ndarray:
        low_i, high_i, low_o, high_o = cell
        across = (c_ins - low_i)[:, None] / max(1, high_i - low_i)
        along = (c_outs - low_o)[None, :] / max(1, high_o - low_o)
        value = self._values
        near = value[low_i, low_o] * (1 - along) + value[low_i, high_o] * along
        far = value[high_i, low_o] * (1 - along) + value[high_i, high_o] * along
        return np.asarray(near * (1 - across) + far * across)

    def _along_diagonal(self, channels: int) -> float:
        for low, high in pairwise(self._diagonal):
            if low <= channels <= high:
                share = (channels - low) / (high - low)
                return self._values[low, low] * (1 - share) + self._values[high, high] * share
        return np.nan


class Pieces:
    """A surface for each of the pieces that a layer's channel counts fall into; they tell nothing of each other."""

    def __init__(self, values: Mapping[tuple[int, int], float], cut: Cut) -> None:
        """Take `values` as `Surface` does."""
        self.axes = (frozenset(i for i, _ in values), frozenset(o for _, o in values))
        self._values = dict(values)
        self._cut = cut
        self._surfaces: dict[Hashable, Surface] = {}
        ins, outs = map(sorted, self.axes)
        for piece, rows, columns in cut(ins, outs):
            pairs = product((ins[row] for row in rows), (outs[column] for column in columns))
            if own := {pair: values[pair] for pair in pairs if pair in values}:
                self._surfaces[piece] = Surface(own)

    def grid(self, c_ins: np.ndarray, c_outs: np.ndarray) -> np.ndarray:
        """Return float64 [len(c_ins), len(c_outs)] microseconds, NaN where a piece does not cover its own."""
        result = np.full((len(c_ins), len(c_outs)), np.nan)
        for piece, rows, columns in self._cut(c_ins.tolist(), c_outs.tolist()):
            if piece in self._surfaces:
                result[np.ix_(rows, columns)] = self._surfaces[piece].grid(c_ins[rows], c_outs[columns])
        return result

    def filled(self, values: np.ndarray, c_ins: Sequence[int], c_outs: Sequence[int]) -> np.ndarray:
        """Return `values` [len(c_ins), len(c_outs)] with a guess for NaN: what points of whatever pieces around it say."""
        if not np.isnan(values).any():
            return values
        return np.where(np.isnan(values), Surface(self._values).grid(np.asarray(c_ins), np.asarray(c_outs)), values)


def _crossings(values: Mapping[tuple[int, int], float]) -> dict[tuple[int, int], float]:
    """Return guesses where measured rows cross a column that is measured above and below them alone.

    What a column takes over those beside it is known above and below, and taken to move evenly in between. A straight line down
    the column would not know of the rows that it crosses: solvers would find the widths where it is too low.
    """
    columns: dict[int, list[int]] = {}
    for i, o in sorted(values):
        columns.setdefault(o, []).append(i)
    guesses = {}
    for o, ins in columns.items():
        for low, high in pairwise(ins):
            beside = [c for c in columns if (low, c) in values and (high, c) in values]
            for i in {i for c in beside for i in columns[c] if low < i < high}:
                before = max((c for c in beside if c < o and (i, c) in values), default=None)
                after = min((c for c in beside if c > o and (i, c) in values), default=None)
                if before is None or after is None:
                    continue
                share, along = (o - before) / (after - before), (i - low) / (high - low)
                start, here, end = (values[r, before] * (1 - share) + values[r, after] * share for r in (low, i, high))
                guesses[i, o] = here * (values[low, o] / start * (1 - along) + values[high, o] / end * along)
    return guesses


def _turned(values: Mapping[tuple[int, int], float]) -> dict[tuple[int, int], float]:
    return {(o, i): value for (i, o), value in values.items()}


def _cells(values: Mapping[tuple[int, int], float]) -> list[tuple[int, int, int, int]]:
    """Return all cells (low_i, high_i, low_o, high_o) that no measured row cuts in two, the largest first."""
    rows: dict[int, list[int]] = {}
    for i, o in sorted(values):
        rows.setdefault(i, []).append(o)
    cells = [(i, i, *span) for i, outs in rows.items() for span in pairwise(outs)]
    for low, high in combinations(rows, 2):
        shared = [o for o in rows[low] if (high, o) in values]
        between = [set(outs) for i, outs in rows.items() if low < i < high]
        spans = [*zip(shared, shared, strict=True), *pairwise(shared)]
        cells += [(low, high, *span) for span in spans if not any(outs.issuperset(span) for outs in between)]
    return sorted(cells, key=lambda c: ((c[1] - c[0]) * (c[3] - c[2]), c[1] - c[0] + c[3] - c[2]), reverse=True)
