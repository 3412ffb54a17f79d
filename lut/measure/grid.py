"""Which points of a requested grid to measure: a coarse grid first, more lines where interpolation between them
fails.

Letters: an *axis* is the ascending tuple of channel counts measured so far on one side; measured points are always
axis x axis.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

import numpy as np

from lut.interpolate import Surface
from lut.pieces import cut_of
from lut.request import GridRequest

FEW = 4
"""An axis with no more channel counts than this is measured in full."""
MAX_LINES = 9
"""No axis grows beyond this many lines (the diagonal of a paired request: twice as many),"""
MAX_PIECE_LINES = 3
"""or is looked at again from this many on, in a piece (`lut.pieces`): a masked layer has several, each as good as flat."""


@dataclass(frozen=True, kw_only=True)
class GridPlan:
    """The axes of one request as refined so far."""

    request: GridRequest
    c_ins: tuple[int, ...]
    c_outs: tuple[int, ...]
    is_piece: bool = False
    """Whether the request is one piece of what was asked for."""

    def points(self) -> list[tuple[int, int]]:
        """Return the points of the measured axes."""
        return [(c, c) for c in self.c_ins] if self.request.paired else list(product(self.c_ins, self.c_outs))

    def probes(self) -> list[tuple[int, int]]:
        """Return the points that would tell whether interpolation holds between the lines; in a piece at one end only."""
        if self.request.paired:
            return [(c, c) for c in _middles(self.c_ins, self.request.c_ins, 2 * MAX_LINES)]
        most, num_ends = (MAX_PIECE_LINES, 1) if self.is_piece else (MAX_LINES, 2)
        rows = product(_middles(self.c_ins, self.request.c_ins, most), _ends(self.c_outs)[-num_ends:])
        columns = product(_ends(self.c_ins)[-num_ends:], _middles(self.c_outs, self.request.c_outs, most))
        return [*rows, *columns]

    def misses_us(self, values: Mapping[tuple[int, int], float]) -> dict[tuple[int, int], float]:
        """Return by how many microseconds interpolation between the lines misses each probe; `values` as in `refined`."""
        surface = Surface({point: values[point] for point in self.points()})
        return {p: abs(_at(surface, p) - values[p]) for p in self.probes()}

    def refined(
        self, values: Mapping[tuple[int, int], float], tolerance: float, negligible_us: float = 0.0
    ) -> "GridPlan":
        """Return the plan with a line added through every probe that interpolation between the lines misses by more
        than the share `tolerance` of it and more than `negligible_us`.

        `values` holds microseconds at all points and probes.
        """
        failed = [
            p
            for p, missed_us in self.misses_us(values).items()
            if missed_us > max(tolerance * values[p], negligible_us)
        ]
        c_ins = {*self.c_ins, *(i for i, o in failed if i not in self.c_ins)}
        c_outs = c_ins if self.request.paired else {*self.c_outs, *(o for i, o in failed if o not in self.c_outs)}
        return replace(self, c_ins=tuple(sorted(c_ins)), c_outs=tuple(sorted(c_outs)))


def first_plans(request: GridRequest, step: int) -> list[GridPlan]:
    """Return the coarse plan: ends, middle, and the end of the first stair (below it runtimes may work differently); of what falls
    into pieces one for each, of its ends.
    """
    c_ins, c_outs = (tuple(sorted(set(counts))) for counts in (request.c_ins, request.c_outs))
    cut = cut_of(request.signature, step)
    if cut is None:
        ins, outs = _first_axis(c_ins, step), _first_axis(c_outs, step)
        return [GridPlan(request=request, c_ins=ins, c_outs=ins if request.paired else outs)]
    pieces = [
        replace(request, c_ins=tuple(c_ins[row] for row in rows), c_outs=tuple(c_outs[column] for column in columns))
        for _, rows, columns in cut(c_ins, c_outs)
    ]
    return [
        GridPlan(request=piece, c_ins=tuple(_ends(piece.c_ins)), c_outs=tuple(_ends(piece.c_outs)), is_piece=True)
        for piece in pieces
    ]


def whole_plan(request: GridRequest) -> GridPlan:
    """Return the plan of every point that is asked for."""
    return GridPlan(request=request, c_ins=tuple(sorted(set(request.c_ins))), c_outs=tuple(sorted(set(request.c_outs))))


def _first_axis(counts: tuple[int, ...], step: int) -> tuple[int, ...]:
    if len(counts) <= FEW:
        return counts
    stair = min((c for c in counts if c >= step), default=counts[0])
    middle = counts[len(counts) // 2]
    # A count off the stairs (often the dense one) belongs to no line that its neighbours span.
    off = [c for c in counts if c % step and c > step]
    return tuple(sorted({counts[0], stair, middle, counts[-1], *(off if len(off) <= FEW else off[-1:])}))


def _middles(axis: tuple[int, ...], counts: tuple[int, ...], limit: int) -> list[int]:
    """Return, for every gap of the axis, the requested count nearest its middle."""
    if len(axis) >= limit:
        return []
    inside = [(low, high, [c for c in counts if low < c < high]) for low, high in pairwise(axis)]
    return [min(between, key=lambda c: abs(2 * c - low - high)) for low, high, between in inside if between]


def _ends(axis: Sequence[int]) -> list[int]:
    return sorted({axis[0], axis[-1]})


def _at(surface: Surface, point: tuple[int, int]) -> float:
    return float(surface.grid(np.array([point[0]]), np.array([point[1]]))[0, 0])
