"""A latency table's scale and offset, fitted on whole slimmed networks, and what its masked layers cost (method section 9)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from lut.calibrate import fit
from lut.measure.runtime import Program
from lut.measure.timing import Timing
from lut.table import LatencyTable

NUM_NETWORKS = 8
"""Slimmed networks a table is calibrated on, beside the dense one;"""
NUM_MASKED = 4
"""and masked ones, where patterns are on offer."""
IN_TURNS = 4
"""Networks timed in turns with the dense one: more would hold too much memory at once."""
LOADS = 2
"""Times each is loaded and timed: the same network, loaded again, lies elsewhere in memory and is up to 4 % faster or slower."""


@dataclass(frozen=True, kw_only=True)
class Turns:
    """What networks took, put on the scale of the dense network, so that drift cancels."""

    dense_us: float
    measured_us: tuple[float, ...]
    spread: tuple[float, ...]
    """By how much the slowest load of each took longer than its fastest, relative: so little does one load say of the next."""


def in_turns(
    measure: Callable[[Sequence[Program]], Sequence[Timing]],
    dense: Program,
    networks: Sequence[Program],
    num_loads: int = LOADS,
) -> Turns:
    """Return the p50 latencies of networks, each timed in turns with the dense one by `measure`, as the mean over loads.

    All have been loaded once before any is loaded again: what disturbs the machine for some seconds disturbs one load of each.
    """
    parts = [networks[start : start + IN_TURNS] for start in range(0, len(networks), IN_TURNS)]
    dense_us: list[float] = []
    ratios: list[list[float]] = []
    for _ in range(num_loads):
        loaded = [measure([dense, *some]) for some in parts]
        dense_us.append(1e3 * loaded[0][0].p50_ms)
        ratios.append([timing.over(base) for base, *timings in loaded for timing in timings])
    by_network = list(zip(*ratios, strict=True))
    return Turns(
        dense_us=fmean(dense_us),
        measured_us=tuple(fmean(dense_us) * fmean(some) for some in by_network),
        spread=tuple(max(some) / min(some) - 1 for some in by_network),
    )


def calibrated(table: LatencyTable, sums_us: Sequence[float], measured_us: Sequence[float]) -> LatencyTable:
    """Return the table with scale, offset and residual fitted on whole networks without masks, whatever they were before.

    `sums_us` are the plain sums of entries (`plain(table)`). Raises ValueError as `lut.calibrate.fit`.
    """
    calibration = fit(sums_us, measured_us)
    return replace(plain(table).calibrated(calibration), residual=calibration.residual, masked_us=table.masked_us)


def masks_calibrated(
    table: LatencyTable, predict_us: Sequence[Callable[[LatencyTable], float]], measured_us: Sequence[float]
) -> LatencyTable:
    """Return the table, calibrated on slimmed networks, with what a lowered layer costs beyond its entry: the median over masked ones;
    as it is where there are none.

    A runtime changes layouts around gathers and grouped convolutions, and fuses less there than it does for one operator by
    itself; most of that is the same for a small layer and a large one.

    Parameters: `predict_us` gives the latency of each masked network by a table's word, `measured_us` what each took.
    """
    bare, one = replace(table, masked_us=0.0), replace(table, masked_us=1.0)
    missed = [
        (us - told) / num
        for predict, us in zip(predict_us, measured_us, strict=True)
        if (num := predict(one) - (told := predict(bare))) > 0
    ]
    return replace(table, masked_us=median(missed)) if missed else table


def plain(table: LatencyTable) -> LatencyTable:
    """Return the table without its calibration."""
    return replace(table, scale=1.0, offset_us=0.0, masked_us=0.0, residual=0.0)
