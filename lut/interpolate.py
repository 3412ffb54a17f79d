"""Bilinear interpolation over the points that happen to be measured: grids, lines, diagonals, and unions of them.

Letters: i = input channels, o = output channels; a cell is a rectangle of channel counts whose four corners are
measured.
"""

from collections.abc import Mapping
from itertools import combinations, pairwise

import numpy as np


class Surface:
    """Microseconds as a function of (c_in, c_out): the measured value at a measured point, bilinear in the smallest
    cell around any other.

    A cell may be a line (one side has one channel count). Between two measured points (a, a) and (b, b) with nothing
    better around, a point on the diagonal is interpolated along it, so that operators with c_in = c_out need one
    measurement a width. Outside every cell: NaN.
    """

    def __init__(self, values: Mapping[tuple[int, int], float]) -> None:
        """Take `values` in microseconds by (c_in, c_out); `axes` are the measured counts on each side."""
        self._values = dict(values)
        self.axes = (frozenset(i for i, _ in values), frozenset(o for _, o in values))
        self._cells = _cells(self._values)
        self._diagonal = sorted(i for i, o in self._values if i == o)

    def grid(self, c_ins: np.ndarray, c_outs: np.ndarray) -> np.ndarray:
        """Return float64 [len(c_ins), len(c_outs)] microseconds, NaN where not covered."""
        result = np.full((len(c_ins), len(c_outs)), np.nan)
        for i, o in np.argwhere(c_ins[:, None] == c_outs[None, :]):
            result[i, o] = self._along_diagonal(int(c_ins[i]))
        # From the widest cell to the narrowest: the last one written is the closest to the point.
        for low_i, high_i, low_o, high_o in self._cells:
            rows = np.flatnonzero((c_ins >= low_i) & (c_ins <= high_i))
            columns = np.flatnonzero((c_outs >= low_o) & (c_outs <= high_o))
            if rows.size and columns.size:
                result[np.ix_(rows, columns)] = self._bilinear(
                    (low_i, high_i, low_o, high_o), c_ins[rows], c_outs[columns]
                )
        for i, c_in in enumerate(c_ins):
            for o, c_out in enumerate(c_outs):
                result[i, o] = self._values.get((int(c_in), int(c_out)), result[i, o])
        return result

    def covers(self, c_in: int, c_out: int) -> bool:
        """Return whether the point is measured or lies between measured ones."""
        return not np.isnan(self.grid(np.array([c_in]), np.array([c_out]))[0, 0])

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
