"""Latency tables: which points to measure, and the entries of those points, in the runtime that the profile names."""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from lut.entry import Entries
from lut.measure import stair
from lut.measure.bench import Bench, Point, Progress
from lut.measure.chunks import Measured
from lut.measure.grid import GridPlan, first_plans, whole_plan
from lut.measure.runtime import checked_runtime
from lut.profile import DeviceProfile
from lut.request import GridRequest, merge_requests, num_macs
from lut.signature import OpSignature
from lut.table import LatencyTable

PASSES = 3
TOLERANCE = 0.05
"""Interpolation that misses a probe by more than this gets a line through it"""
PATTERN_TOLERANCE = 0.1
"""(by more than this where the operator has a pattern),"""
NEGLIGIBLE = 0.001
"""unless all operators of the signature together miss less than this share of the dense network."""
_NOISE_FACTOR = 3
_STAIR_PIXELS = 28
_STAIR_CHANNELS = 32


Keep = Callable[[LatencyTable], None]


def silent(done: int, total: int) -> None:
    """Report progress to nobody."""


def forget(measured: LatencyTable) -> None:
    """Keep nothing."""


def measure_table(
    profile: DeviceProfile,
    requests: Iterable[GridRequest],
    known: LatencyTable | None = None,
    progress: Progress = silent,
    *,
    begun: LatencyTable | None = None,
    keep: Keep = forget,
    full: bool = False,
) -> LatencyTable:
    """Return a table that covers `requests`: `known`, and what had to be measured beyond it.

    Points in `known` are never measured again; when it covers everything it is returned as it is. Each request is
    measured on a coarse grid and refined where interpolation fails (`lut.measure.grid`); when `known` has no stair yet,
    that is found first. A pattern that the runtime has no way to run gets no entries. `progress(done, total)` counts
    points; `total` grows when a grid is refined, or points are timed once more. `keep` gets everything measured beyond
    `known` at intervals; given back as `begun` after an interruption, it is gone on from. `full` measures every point asked
    for instead. Raises RuntimeAbsent; ValueError when this machine is not `profile`'s, `known` belongs to another profile, or
    a request describes no operator.
    """
    runtime = checked_runtime(profile)
    if known is not None and known.profile != profile:
        raise ValueError("the known table belongs to another device profile")
    start = time.monotonic()
    table = known or LatencyTable(profile=profile, entries={})
    asked = merge_requests(requests)
    wanted = [request for request in table.missing(asked) if runtime.runs(request.signature)]
    if not wanted:
        return table
    begun = begun or LatencyTable(profile=profile, entries={}, step=table.step)
    step = begun.step if table.entries or begun.entries or begun.step > 1 else measure_step(profile, wanted)
    known_too = table.merge(begun)
    with _bench(profile, asked, known_too.entries) as bench:

        def made(found: Measured, interpolation: float = 0.0) -> LatencyTable:
            fresh = LatencyTable(
                profile=profile, entries=found, step=step, noise=bench.chunks.noise, drift=bench.chunks.drift,
                interpolation=interpolation, seconds=time.monotonic() - start,
            )  # fmt: skip
            return begun.merge(fresh)

        plans = [p for one in wanted for p in ([whole_plan(one)] if full else first_plans(one, step))]
        fresh = made(*_adaptive(bench, plans, known_too, progress, lambda found: keep(made(found))))
    return table.merge(fresh)


def measure_points(
    profile: DeviceProfile,
    points: Iterable[tuple[OpSignature, int, int]],
    progress: Progress = silent,
) -> LatencyTable:
    """Return a table of exactly these (signature, c_in, c_out), measured now: for the entries that a plan leans on.

    Give every operator of the network, repeated signatures too: they tell how cold weights are. To put the result into
    an older table, `table.merge(result)`. Raises ValueError when this machine is not `profile`'s.
    """
    start = time.monotonic()
    listed = list(points)
    requests = [GridRequest(signature=s, c_ins=(i,), c_outs=(o,)) for s, i, o in listed]
    with _bench(profile, requests) as bench:
        entries = bench.measure([(s, (i, o)) for s, i, o in dict.fromkeys(listed)], progress)
    return LatencyTable(
        profile=profile, entries=entries, noise=bench.chunks.noise, drift=bench.chunks.drift, seconds=time.monotonic() - start
    )  # fmt: skip


def measure_step(profile: DeviceProfile, requests: Iterable[GridRequest], progress: Progress = silent) -> int:
    """Return the stair width of the device, found on the most expensive signature of `requests`; 1 where nothing varies.

    Neighbouring widths are measured as its output and as its input, and `lut.measure.stair` reads the stair off the sum.
    The map has 28 pixels: stairs lie in the channels, and a smaller map takes hardly longer than to begin with it.
    `LatencyTable(profile=profile, entries={}, step=step)` then offers widths, before anything else is measured. Raises
    ValueError when this machine is not `profile`'s.
    """
    checked_runtime(profile)
    free = [r for r in requests if r.signature.kind in ("conv", "linear") and r.signature.groups == 1]
    if not free:
        return 1
    dearest = max(free, key=lambda r: (num_macs(r.signature, max(r.c_ins), max(r.c_outs)), max(r.c_outs))).signature
    pixels = _STAIR_PIXELS if dearest.kind == "conv" else 1
    signature = replace(dearest, height=pixels, width=pixels, pattern="")
    other = _STAIR_CHANNELS
    points = {(signature, pair): None for w in stair.WIDTHS for pair in ((other, w), (w, other))}
    request = GridRequest(signature=signature, c_ins=(other,), c_outs=(other, max(stair.WIDTHS)))
    with _bench(profile, [request]) as bench:
        entries = bench.measure(list(points), progress)[signature]
    cost_us = [entries[other, w].p50_us + entries[w, other].p50_us for w in stair.WIDTHS]
    return stair.stair_step(np.array(stair.WIDTHS), np.array(cost_us))


@contextmanager
def _bench(
    profile: DeviceProfile, requests: Sequence[GridRequest], known: Entries = MappingProxyType({})
) -> Iterator[Bench]:
    runtime = checked_runtime(profile)
    with runtime.settled(profile):
        yield Bench(runtime, profile, requests, known)


def _adaptive(
    bench: Bench,
    plans: Sequence[GridPlan],
    known: LatencyTable,
    progress: Progress,
    keep: Callable[[Measured], None],
) -> tuple[Measured, float]:
    """Measure the grids of `plans`, then lines where interpolation fails; the last pass only fills lines.

    Beside the entries the share that interpolation missed when it was looked at last.
    """
    found: Measured = {}
    missed = 0.0
    for remaining in reversed(range(PASSES)):
        wanted = {(p.request.signature, c): None for p in plans for c in p.points() + (p.probes() if remaining else [])}
        todo = [(s, c) for s, c in wanted if c not in found.get(s, {}) and c not in known.entries.get(s, {})]
        random.Random(remaining).shuffle(todo)
        if todo:
            bench.measure(todo, progress, keep)
        found = bench.chunks.found()
        noise = _NOISE_FACTOR * max(bench.chunks.noise, known.noise)
        if remaining:
            values = [_values(plan.request.signature, found, known) for plan in plans]
            small_us = NEGLIGIBLE * _dense_us(plans, values)
            missed = _missed(plans, values)
            plans = [
                plan.refined(own, max(noise, _tolerance(plan)), small_us / plan.request.count)
                for plan, own in zip(plans, values, strict=True)
            ]
    return found, missed


def _tolerance(plan: GridPlan) -> float:
    return PATTERN_TOLERANCE if plan.request.signature.pattern else TOLERANCE


def _missed(plans: Sequence[GridPlan], values: Sequence[Mapping[Point, float]]) -> float:
    """Return what interpolation misses at all probes over what they take, operators counted as often as they occur."""
    missed_us, total_us = 0.0, 0.0
    for plan, own in zip(plans, values, strict=True):
        misses = plan.misses_us(own)
        missed_us += plan.request.count * sum(misses.values())
        total_us += plan.request.count * sum(own[probe] for probe in misses)
    return missed_us / total_us if total_us else 0.0


def _dense_us(plans: Sequence[GridPlan], values: Sequence[Mapping[Point, float]]) -> float:
    """Return the sum of the requests without a pattern at their greatest widths."""
    return sum(
        plan.request.count * own[plan.c_ins[-1], plan.c_outs[-1]]
        for plan, own in zip(plans, values, strict=True)
        if not plan.request.signature.pattern
    )


def _values(signature: OpSignature, found: Measured, known: LatencyTable) -> Mapping[Point, float]:
    points = {**known.entries.get(signature, {}), **found.get(signature, {})}
    return {point: entry.p50_us for point, entry in points.items()}
