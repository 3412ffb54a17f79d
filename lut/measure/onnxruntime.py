"""Latencies in ONNX Runtime on CPU: isolated operators for a table (see `lut.measure.bench`), whole networks for a
verdict.
"""

import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime

from lut.measure import stair
from lut.measure.bench import Bench, Measured, Point, Progress
from lut.measure.grid import first_plan
from lut.measure.sessions import network_run
from lut.measure.timing import Timed, Timing, interleave
from lut.profile import DeviceProfile
from lut.request import GridRequest, merge_requests, num_macs
from lut.signature import OpSignature
from lut.table import LatencyTable

RUNTIME = "onnxruntime"
PASSES = 3
TOLERANCE = 0.04
"""Interpolation that misses a probe by more than this gets a line through it."""
_NOISE_FACTOR = 3
_STAIR_PIXELS = 28
_STAIR_CHANNELS = 32


def _silent(done: int, total: int) -> None:
    """Report progress to nobody."""


def local_profile(threads: int, batch: int) -> DeviceProfile:
    """Return the profile of this machine's CPU under the installed ONNX Runtime.

    Raises ValueError for threads or batch below 1.
    """
    if threads < 1 or batch < 1:
        raise ValueError(f"threads and batch must be at least 1, got {threads} and {batch}")
    return DeviceProfile(
        hardware=_hardware(),
        runtime=RUNTIME,
        runtime_version=onnxruntime.__version__,
        threads=threads,
        batch=batch,
    )


def measure_table(
    profile: DeviceProfile,
    requests: Iterable[GridRequest],
    known: LatencyTable | None = None,
    progress: Progress = _silent,
) -> LatencyTable:
    """Return a table that covers `requests`: `known`, and what had to be measured beyond it.

    Points in `known` are never measured again; when it covers everything it is returned as it is. Each request is
    measured on a coarse grid and refined where interpolation fails (`lut.measure.grid`); when `known` has no stair yet,
    that is found first. `progress(done, total)` counts points; `total` grows when a grid is refined.
    Raises ValueError when this machine is not `profile`'s, `known` belongs to another profile, or a request describes
    no operator.
    """
    _check_profile(profile)
    if known is not None and known.profile != profile:
        raise ValueError("the known table belongs to another device profile")
    start = time.monotonic()
    table = known or LatencyTable(profile=profile, entries={})
    wanted = table.missing(merge_requests(requests))
    if not wanted:
        return table
    step = table.step if table.entries or table.step > 1 else measure_step(profile, wanted)
    with tempfile.TemporaryDirectory(prefix="latency-") as folder:
        bench = Bench(profile, Path(folder), wanted)
        entries = _adaptive(bench, wanted, step, table, progress)
        noise = bench.noise
    seconds = time.monotonic() - start
    fresh = replace(table, entries=entries, step=step, noise=noise, seconds=seconds)
    return table.merge(fresh)


def measure_points(
    profile: DeviceProfile,
    points: Iterable[tuple[OpSignature, int, int]],
    progress: Progress = _silent,
) -> LatencyTable:
    """Return a table of exactly these (signature, c_in, c_out), measured now: for the entries that a plan leans on.

    Give every operator of the network, repeated signatures too: they tell how cold weights are. To put the result into
    an older table, `table.merge(result)`. Raises ValueError when this machine is not `profile`'s.
    """
    _check_profile(profile)
    start = time.monotonic()
    listed = list(points)
    requests = [GridRequest(signature=s, c_ins=(i,), c_outs=(o,)) for s, i, o in listed]
    with tempfile.TemporaryDirectory(prefix="latency-") as folder:
        bench = Bench(profile, Path(folder), requests)
        entries = bench.measure([(s, (i, o)) for s, i, o in dict.fromkeys(listed)], progress)
        noise = bench.noise
    return LatencyTable(profile=profile, entries=entries, noise=noise, seconds=time.monotonic() - start)


def measure_step(profile: DeviceProfile, requests: Iterable[GridRequest]) -> int:
    """Return the stair width of the device, found on the most expensive signature of `requests`; 1 where nothing varies.

    Neighbouring widths are measured as its output and as its input, and `lut.measure.stair` reads the stair off the sum.
    The map is shrunk to 28 pixels: stairs lie in the channels. `LatencyTable(profile=profile, entries={}, step=step)`
    then offers widths, before anything else is measured. Raises ValueError when this machine is not `profile`'s.
    """
    _check_profile(profile)
    free = [r for r in requests if r.signature.kind in ("conv", "linear") and r.signature.groups == 1]
    if not free:
        return 1
    dearest = max(free, key=lambda r: (num_macs(r.signature, max(r.c_ins), max(r.c_outs)), max(r.c_outs))).signature
    height, width = min(dearest.height, _STAIR_PIXELS), min(dearest.width, _STAIR_PIXELS)
    signature = replace(dearest, height=height, width=width, pattern="")
    other = _STAIR_CHANNELS
    points = {(signature, pair): None for w in stair.WIDTHS for pair in ((other, w), (w, other))}
    request = GridRequest(signature=signature, c_ins=(other,), c_outs=(other, max(stair.WIDTHS)))
    with tempfile.TemporaryDirectory(prefix="latency-") as folder:
        entries = Bench(profile, Path(folder), [request]).measure(list(points), _silent)[signature]
    cost_us = [entries[other, w].p50_us + entries[w, other].p50_us for w in stair.WIDTHS]
    return stair.stair_step(np.array(stair.WIDTHS), np.array(cost_us))


def measure_models(
    models: Sequence[bytes | Path],
    profile: DeviceProfile,
    *,
    min_seconds: float = 1.0,
    rounds: int = 10,
    min_runs: int = 3,
    progress: Callable[[float], None] = lambda fraction: None,
) -> list[Timing]:
    """Return the latency of whole ONNX networks, timed in turns in this one process so that drift cancels between them.

    Every network is run for at least `min_seconds` in total and `rounds * min_runs` times. Inputs are fixed random
    numbers; a symbolic first dimension becomes `profile.batch`. `progress` runs from 0 to 1.
    Raises ValueError for a network that cannot be loaded or fed, or when this machine is not `profile`'s.
    """
    _check_profile(profile)
    timed = [Timed(network_run(model, profile), profile.threads) for model in models]
    for one in timed:
        one.quick_s(5)
    interleave(
        timed,
        rounds=rounds,
        slice_s=min_seconds / rounds,
        min_runs=min_runs,
        on_round=lambda number: progress(number / rounds),
    )
    return [one.timing() for one in timed]


def _adaptive(
    bench: Bench, requests: Sequence[GridRequest], step: int, known: LatencyTable, progress: Progress
) -> Measured:
    """Measure coarse grids, then lines where interpolation fails; the last pass only fills lines."""
    plans = [first_plan(request, step) for request in requests]
    found: Measured = {}
    done = 0
    for remaining in reversed(range(PASSES)):
        wanted = {(p.request.signature, c): None for p in plans for c in p.points() + (p.probes() if remaining else [])}
        todo = [(s, c) for s, c in wanted if c not in found.get(s, {}) and c not in known.entries.get(s, {})]

        def report(part: int, total: int, before: int = done) -> None:
            progress(before + part, before + total)

        for signature, entries in bench.measure(todo, report).items():
            found.setdefault(signature, {}).update(entries)
        done += len(todo)
        tolerance = max(TOLERANCE, _NOISE_FACTOR * bench.noise)
        if remaining:
            plans = [p.refined(_values(p.request.signature, found, known), tolerance) for p in plans]
    return found


def _values(signature: OpSignature, found: Measured, known: LatencyTable) -> Mapping[Point, float]:
    points = {**known.entries.get(signature, {}), **found.get(signature, {})}
    return {point: entry.p50_us for point, entry in points.items()}


def _check_profile(profile: DeviceProfile) -> None:
    here = local_profile(profile.threads, profile.batch)
    if profile != here:
        raise ValueError(f"this machine measures for {here}, not for {profile}")


def _hardware() -> str:
    """Return the CPU's name, and with it family and model, because a hypervisor often hides the name."""
    fields: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processor = fields.get("model name") or platform.processor() or platform.machine()
    if {"cpu family", "model"} <= fields.keys():
        processor += f" (family {fields['cpu family']} model {fields['model']})"
    return f"{processor}, {cores} cores"
