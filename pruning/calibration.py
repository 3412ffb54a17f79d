"""A latency table's scale and offset, fitted on whole slimmed networks, and what its masked layers take (method section 9)."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from lut.calibrate import fit, fit_masked
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
UNSURE = 0.015
"""Where the mean over loads has a standard error above this, there are more, up to twice as many."""


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
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Turns:
    """Return the p50 latencies of networks, each timed in turns with the dense one and a few others by `measure`, as the mean over
    `num_loads` loads, up to twice as many where these differ.

    All have been loaded once before any is loaded again, and then with others: what disturbs the machine for some seconds, or the
    memory that the dense network happens to get, disturbs one load of each, and not the same ones each time. `progress(done, total)`
    counts turns; `total` grows where there are more.
    """
    programs, random = [dense, *networks], np.random.default_rng(0)
    dense_ms: list[float] = []
    ratios: dict[int, list[float]] = {number: [] for number in range(1, len(programs))}
    turns: list[dict[int, float]] = []
    for load in range(2 * num_loads):
        if load >= num_loads and _standard_error(ratios.values()) <= UNSURE:
            break
        order = random.permutation(len(networks)) + 1
        for start in range(0, len(order), IN_TURNS):
            part = [0, *order[start : start + IN_TURNS].tolist()]
            base, *timings = some = measure([programs[number] for number in part])
            dense_ms.append(base.p50_ms)
            turns.append(dict(zip(part, _levels(some), strict=True)))
            progress(len(turns), max(load + 1, num_loads) * math.ceil(len(order) / IN_TURNS))
            for number, timing in zip(part[1:], timings, strict=True):
                ratios[number].append(timing.over(base))
    dense_us = 1e3 * fmean(dense_ms)
    return Turns(
        dense_us=dense_us,
        measured_us=tuple(dense_us * level for level in _relative(len(programs), turns)[1:]),
        spread=tuple(max(some) / min(some) - 1 for some in ratios.values()),
    )


def _standard_error(ratios: Iterable[Sequence[float]]) -> float:
    """Return that of the mean of each network's ratios, relative: the median over networks; 0 where it cannot be told."""
    told = [np.std(np.log(some), ddof=1) / len(some) ** 0.5 for some in ratios if len(some) > 1]
    return float(np.median(told)) if told else 0.0


def _levels(timings: Sequence[Timing]) -> list[float]:
    """Return by how much each takes longer than all do on average, float64 logarithms: the median over rounds."""
    rounds = [timing.rounds_ms or (timing.p50_ms,) for timing in timings]
    logs = np.log([some[: min(map(len, rounds))] for some in rounds])
    return [float(level) for level in np.median(logs - logs.mean(axis=0), axis=1)]


def _relative(num: int, turns: Sequence[Mapping[int, float]]) -> list[float]:
    """Return what each of `num` networks takes over the first one, by logarithms of those that had turns together: a network has its
    level, and each of `turns` a pace of its own, by least squares.
    """
    rows = [(number, num + turn, level) for turn, some in enumerate(turns) for number, level in some.items()]
    design = np.zeros((len(rows), num + len(turns)))
    for row, (network, pace, _) in enumerate(rows):
        design[row, [network, pace]] = 1.0
    levels = np.linalg.lstsq(design, np.array([level for *_, level in rows]))[0][:num]
    return [float(share) for share in np.exp(levels - levels[0])]


def calibrated(table: LatencyTable, sums_us: Sequence[float], measured_us: Sequence[float]) -> LatencyTable:
    """Return the table with scale, offset and residual fitted on whole networks without masks, whatever they were before.

    `sums_us` are the plain sums of entries (`plain(table)`). Raises ValueError as `lut.calibrate.fit`.
    """
    calibration = fit(sums_us, measured_us)
    return replace(plain(table).calibrated(calibration), residual=calibration.residual, masked_scale=table.masked_scale)


def masks_calibrated(
    table: LatencyTable, predict_us: Sequence[Callable[[LatencyTable], float]], measured_us: Sequence[float]
) -> LatencyTable:
    """Return the table, calibrated on slimmed networks, with what masked layers take in networks over what they take by themselves;
    as it is where there are none.

    A runtime changes layouts around gathers and grouped convolutions, and fuses less there than it does for one operator by itself.

    Parameters: `predict_us` gives the latency of each masked network by a table's word, `measured_us` what each took.
    """
    if not measured_us:
        return table
    bare, once = replace(table, masked_scale=0.0), replace(table, masked_scale=1.0)
    dense_us = [predict(bare) for predict in predict_us]
    masked_us = [predict(once) - without for predict, without in zip(predict_us, dense_us, strict=True)]
    return replace(table, masked_scale=fit_masked(dense_us, masked_us, measured_us))


def plain(table: LatencyTable) -> LatencyTable:
    """Return the table without its calibration."""
    return replace(table, scale=1.0, offset_us=0.0, masked_scale=1.0, residual=0.0)
