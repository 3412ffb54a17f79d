"""How two latency tables differ, over the entries both have."""

from dataclasses import dataclass

import numpy as np

from lut.coarse import coarse_signature
from lut.table import LatencyTable


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two tables a and b."""

    num_shared: int
    only_a: int
    """Entries that b lacks."""
    only_b: int
    ratio_median: float | None
    """Of b / a over the shared entries; None where there are none."""
    ratio_p90: float | None
    rank_correlation: float | None
    """Spearman's; None for fewer than two shared entries, or where one side is constant."""


def compare(a: LatencyTable, b: LatencyTable) -> Comparison:
    """Return how `b` differs from `a`; uncalibrated p50, shared is what has one signature and one point.

    Where either table is coarse, both are compared by the coarse key; of several entries the dearest counts.
    """
    coarse = a.coarse or b.coarse
    mine, theirs = _flat(a, coarse), _flat(b, coarse)
    shared = sorted(mine.keys() & theirs.keys())
    x, y = (np.array([side[key] for key in shared]) for side in (mine, theirs))
    ratios = y / x
    return Comparison(
        num_shared=len(shared),
        only_a=len(mine) - len(shared),
        only_b=len(theirs) - len(shared),
        ratio_median=float(np.median(ratios)) if shared else None,
        ratio_p90=float(np.percentile(ratios, 90)) if shared else None,
        rank_correlation=rank_correlation(x, y),
    )


def _flat(table: LatencyTable, coarse: bool) -> dict[tuple[object, ...], float]:
    found: dict[tuple[object, ...], float] = {}
    for signature, points in table.entries.items():
        key = coarse_signature(signature) if coarse else signature
        for point, entry in points.items():
            found[key, *point] = max(entry.p50_us, found.get((key, *point), 0.0))
    return found


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Return Spearman's correlation of [n] and [n], ties at their mean rank; None for n < 2, or where one side is constant."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return float64 ranks, ties at their mean."""
    _, back, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[back])
