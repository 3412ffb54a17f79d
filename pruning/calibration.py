"""A latency table's scale and offset, fitted on whole slimmed networks (method section 9)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from statistics import fmean

from lut.calibrate import fit
from lut.measure.runtime import Program
from lut.measure.timing import Timing
from lut.table import LatencyTable

NUM_NETWORKS = 8
"""Slimmed networks a table is calibrated on, beside the dense one."""
IN_TURNS = 4
"""Networks timed in turns with the dense one: more would hold too much memory at once."""
LOADS = 2
"""Times each is loaded and timed: the same network, loaded again, lies elsewhere in memory and is up to 4 % faster or slower."""


@dataclass(frozen=True, kw_only=True)
class Turns:
    """What networks took, put on the scale of the dense network's first measurement, so that drift cancels."""

    dense_us: float
    measured_us: tuple[float, ...]


def in_turns(
    measure: Callable[[Sequence[Program]], Sequence[Timing]],
    dense: Program,
    networks: Iterable[Program],
    num_loads: int = LOADS,
) -> Turns:
    """Return the p50 latencies of networks, each timed in turns with the dense one by `measure`, as the mean over loads; a few are
    held at a time.
    """
    dense_us = 0.0
    found: list[float] = []
    waiting = iter(networks)
    while some := list(islice(waiting, IN_TURNS)):
        loads = [measure([dense, *some]) for _ in range(num_loads)]
        dense_us = dense_us or fmean(1e3 * base.p50_ms for base, *_ in loads)
        ratios = zip(*([timing.over(base) for timing in timings] for base, *timings in loads), strict=True)
        found += [dense_us * fmean(ratio) for ratio in ratios]
    return Turns(dense_us=dense_us, measured_us=tuple(found))


def calibrated(table: LatencyTable, sums_us: Sequence[float], measured_us: Sequence[float]) -> LatencyTable:
    """Return the table with scale, offset and residual fitted on whole networks, whatever they were before.

    `sums_us` are the plain sums of entries (`plain(table)`). Raises ValueError as `lut.calibrate.fit`.
    """
    calibration = fit(sums_us, measured_us)
    return replace(plain(table).calibrated(calibration), residual=calibration.residual)


def plain(table: LatencyTable) -> LatencyTable:
    """Return the table without its calibration."""
    return replace(table, scale=1.0, offset_us=0.0, residual=0.0)
