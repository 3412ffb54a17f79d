"""Times operators as a network runs them: copies of each in one run, many runs interleaved, in any runtime.

What an entry is. The operator is taken as the runtime executes it inside a network (fused, in its layout, with only
the layout changes it causes itself: `lut.measure.runtime.Operator`), repeated `copies` times in one run on the same
input, and that run is timed; an entry is the time of the run, less that of the rest of the run, over `copies`. Copies
serve two ends. Operators of a few microseconds are not drowned by the fixed cost. And every copy has its own weights,
as many as the network streams through the caches between two uses of a weight (`rotation_bytes`): an operator looped
on one set of weights finds them in the nearest cache, which inside ResNet-50 it does not, and late layers would come
out 20-30 % too fast. The first operator of a network writes where nothing has been since the last inference, so its
copies have their own outputs.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lut.entry import MOST_SAMPLES
from lut.measure.arrays import random_pool
from lut.measure.onnx_ops import MAX_IMAGE_CHANNELS, on_vectors
from lut.measure.runtime import Run, Runtime
from lut.measure.timing import Timed, interleave, relative_scatter
from lut.profile import DeviceProfile
from lut.request import GridRequest, num_weights, output_size
from lut.signature import OpSignature
from lut.table import Entry

ROUNDS = 5
SLICE_S = 0.004
MIN_RUNS = 3
"""Rounds x slice: each point gets at least 20 ms and 15 runs."""
MAX_GRAPH_S = 0.004
"""No more copies than run in this time."""
MIN_GRAPH_S = 60e-6
"""At least as many copies as run in this time, so that the fixed cost of a run (about 2 us) is a small correction."""
MAX_COPIES = 64
MAX_ROTATION_BYTES = 64 << 20
CHUNK_BYTES = 1 << 30
LEAST_HELD_BYTES = 1 << 20
CHUNK_SESSIONS = 256
RESTLESS = 0.05
"""A chunk during which the reference kernel moved by more than this is measured again."""
MAX_AGAIN = 3
"""Most chunks of one measurement that are: a machine that stays restless must not take for ever."""
_WEIGHTS = "weights.bin"
_PADDING = 64
"""No runtime pads channels by more than this."""
_REFERENCE = OpSignature(kind="conv", height=14, width=14, kernel=(3, 3), padding=(1, 1), activation="relu")
_REFERENCE_POINT = (64, 64)

Point = tuple[int, int]
Progress = Callable[[int, int], None]
Measured = dict[OpSignature, dict[Point, Entry]]


def rotation_bytes(requests: Iterable[GridRequest], batch: int) -> int:
    """Return how many bytes the copies of an operator should rotate through: what the network touches in one inference.

    Counted at the middle of the requested widths: weights and outputs of every operator (`GridRequest.count` of each),
    at most 64 MiB. Between a dense network, whose weights are colder, and a slimmed one, whose weights are warmer.
    """
    total = 0
    for request in requests:
        c_in, c_out = (sorted(counts)[len(counts) // 2] for counts in (request.c_ins, request.c_outs))
        height, width = output_size(request.signature)
        values = num_weights(request.signature, c_in, c_out) + batch * c_out * height * width
        total += 4 * request.count * values
    return min(total, MAX_ROTATION_BYTES)


@dataclass(kw_only=True)
class _Probe:
    """One point under measurement."""

    signature: OpSignature
    point: Point
    run: Run
    rest: Run
    copies: int
    held_bytes: int
    """Memory that no other probe shares."""


class Bench:
    """A runtime's lab, its weights and the running reference kernel of one measurement on this machine."""

    def __init__(self, runtime: Runtime, profile: DeviceProfile, folder: Path, requests: Sequence[GridRequest]) -> None:
        """Prepare to measure points of `requests`; `folder` is scratch space that outlives the bench."""
        self._runtime = runtime
        self._profile = profile
        self._rotation = rotation_bytes(requests, profile.batch)
        self._file_bytes = max(self._rotation, 1 << 20, *(_padded_weight_bytes(request) for request in requests))
        self._reference_medians: list[float] = []
        self._usual_s = 0.0
        self._again = MAX_AGAIN
        self.drift = 0.0
        """Largest relative move of the reference kernel in or between the chunks that count."""
        self._lab = runtime.lab(profile, folder, folder / _WEIGHTS)
        pool = random_pool().tobytes()
        with (folder / _WEIGHTS).open("wb") as file:
            for written in range(0, self._file_bytes, len(pool)):
                file.write(pool[: self._file_bytes - written])

    @property
    def noise(self) -> float:
        """Relative scatter of the reference kernel over all rounds so far."""
        return relative_scatter(self._reference_medians)

    def measure(self, points: Sequence[tuple[OpSignature, Point]], progress: Progress) -> Measured:
        """Return entries for all points, measured in chunks that fit in memory; `progress` counts points."""
        entries: Measured = {}
        done = 0
        chunk: list[_Probe] = []
        for number, (signature, point) in enumerate(points, start=1):
            chunk.append(self._prepare(signature, point))
            full = len(chunk) >= CHUNK_SESSIONS or sum(probe.held_bytes for probe in chunk) > CHUNK_BYTES
            if full or number == len(points):
                for probe, entry in self._time(chunk, done, len(points), progress):
                    entries.setdefault(probe.signature, {})[probe.point] = entry
                done = number
                chunk.clear()
                self._lab.clear()
        return entries

    def _time(self, chunk: Sequence[_Probe], done: int, total: int, progress: Progress) -> list[tuple[_Probe, Entry]]:
        """Return the chunk's entries; of two measurements, those during which the reference kernel moved less."""
        reference = self._prepare(_REFERENCE, _REFERENCE_POINT).run

        def once() -> tuple[float, list[float], list[tuple[_Probe, Entry]]]:
            threads = self._profile.threads
            kernel, rests = Timed(reference, threads), {p.rest: Timed(p.rest, threads) for p in chunk}
            probes = [(probe, Timed(probe.run, threads)) for probe in chunk]
            interleave(
                [kernel, *rests.values(), *(timed for _, timed in probes)],
                rounds=ROUNDS,
                slice_s=SLICE_S,
                min_runs=MIN_RUNS,
                on_round=lambda number: progress(done + len(chunk) * number // ROUNDS, total),
            )
            rest_s = {run: float(np.median(timed.clean_s())) for run, timed in rests.items()}
            entries = [(probe, _entry(probe, timed, rest_s[probe.rest])) for probe, timed in probes]
            return moved(kernel.round_medians, self._usual_s), kernel.round_medians, entries

        best = once()
        if best[0] > RESTLESS and self._again:
            self._again -= 1
            best = min(best, once(), key=lambda one: one[0])
        move, medians, entries = best
        self.drift = max(self.drift, move)
        self._reference_medians += medians
        self._usual_s = self._usual_s or float(np.median(medians))
        return entries

    def _prepare(self, signature: OpSignature, point: Point) -> _Probe:
        """Build the run of one point; a single copy tells how many fit into the time a run may take."""
        operator = self._lab.operator(signature, *point)
        is_first = point[0] <= MAX_IMAGE_CHANNELS and not on_vectors(signature)
        run = operator.run(1, own_outputs=False)
        estimate_s = max(Timed(run).quick_s(), 1e-6)
        height, width = output_size(signature)
        own_bytes = operator.weight_bytes + is_first * 4 * self._profile.batch * point[1] * height * width
        copies = max(self._rotation // max(own_bytes, 1), round(MIN_GRAPH_S / estimate_s))
        copies = max(1, min(copies, MAX_COPIES, self._runtime.max_copies, int(MAX_GRAPH_S / estimate_s)))
        if copies > 1:
            run = operator.run(copies, own_outputs=is_first)
        own_outputs = is_first * copies * (own_bytes - operator.weight_bytes)
        held_bytes = max(LEAST_HELD_BYTES, operator.held_bytes(copies) + own_outputs)
        return _Probe(
            signature=signature, point=point, run=run, rest=operator.rest(copies), copies=copies,
            held_bytes=held_bytes,
        )  # fmt: skip


def moved(medians: Sequence[float], usual_s: float = 0.0) -> float:
    """Return how far the reference kernel moved: the larger of last rounds against first, and all against `usual_s`.

    `medians` float [rounds] in seconds; relative; `usual_s` 0 where nothing came before.
    """
    half = max(1, len(medians) // 2)
    first, last, middle = (float(np.median(part)) for part in (medians[:half], medians[-half:], medians))
    return max(abs(last / first - 1), abs(middle / usual_s - 1) if usual_s else 0.0)


def _entry(probe: _Probe, timed: Timed, rest_s: float) -> Entry:
    clean_us, all_us = ((np.array(s) - rest_s) / probe.copies * 1e6 for s in (timed.clean_s(), timed.seconds))
    # An operator that the clock cannot tell from nothing still has an entry above zero.
    p50, p90 = np.maximum(np.percentile(clean_us, (50, 90)), 1e-3)
    samples = tuple(np.round(all_us[:MOST_SAMPLES], 3).tolist())
    return Entry(p50_us=float(p50), p90_us=float(p90), num_samples=len(clean_us), samples_us=samples)


def _padded_weight_bytes(request: GridRequest) -> int:
    """Return an upper limit of the bytes of one weight tensor, channels padded to any block size."""
    dense = replace(request.signature, pattern="")
    return 4 * num_weights(dense, max(request.c_ins) + _PADDING, max(request.c_outs) + _PADDING)
