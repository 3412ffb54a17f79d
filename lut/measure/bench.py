"""Times operators as a network runs them: copies of each in one run, many runs interleaved, in any runtime.

What an entry is. The operator is taken as the runtime executes it inside a network (fused, in its layout, with only
the layout changes it causes itself: `lut.measure.runtime.Operator`), repeated `copies` times in one run on the same
input, and that run is timed; an entry is the time of the run, less that of the rest of the run, over `copies`. Copies
serve two ends. Operators of a few microseconds are not drowned by the fixed cost. And every copy has its own weights,
as many as the network streams through the caches between two uses of a weight (`rotation_copies`), up to a few MiB;
what weights from further away cost is added (`lut.measure.cold`). An operator looped on one set of weights finds them
in the nearest cache, which inside ResNet-50 it does not, and late layers would come out 20-30 % too fast. The first
operator of a network writes where nothing has been since the last inference, so its copies have their own outputs.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lut.entry import MOST_SAMPLES, Entries
from lut.measure.chunks import Chunk, Chunks, Measured, Seen
from lut.measure.cold import Cold, far_share, telling
from lut.measure.onnx_ops import MAX_IMAGE_CHANNELS, on_vectors
from lut.measure.pace import Anchor, anchors, by_round, counting
from lut.measure.runtime import Run, Runtime
from lut.measure.timing import Timed, interleave
from lut.profile import DeviceProfile
from lut.request import GridRequest, merge_requests, num_weights, output_size
from lut.signature import OpSignature
from lut.table import Entry

ROUNDS = 5
SLICE_S = 0.001
MIN_RUNS = 1
"""Rounds x slice: each point gets at least 5 ms and 5 runs; a run has several copies. What a point takes in another session differs
more than what longer timing takes away (`bench/RESULTS.md`).
"""
MAX_GRAPH_S = 0.001
"""No more copies than run in this time."""
MIN_GRAPH_S = 60e-6
"""At least as many copies as run in this time, so that the fixed cost of a run (about 2 us) is a small correction."""
MAX_COPIES = 64
MAX_ROTATION_BYTES = 3 << 20
"""More than the nearest caches hold; what weights from further away cost is added (`lut.measure.cold`)."""
CHUNK_BYTES = 1 << 30
LEAST_HELD_BYTES = 1 << 20
CHUNK_SESSIONS = 256

Point = tuple[int, int]
Progress = Callable[[int, int], None]


def rotation_copies(requests: Iterable[GridRequest], batch: int) -> dict[OpSignature, int]:
    """Return how many copies of an operator touch what a network touches between two uses of it, by signature.

    Counted at the greatest requested widths: weights and outputs of all operators (`GridRequest.count` of each; those with
    a pattern stand for others) over those of the one. The same number serves all its widths: copies of a narrow operator
    touch as little as a network that is slimmed alike, whose weights stay warm.
    """
    merged = merge_requests(requests)
    dense = [request for request in merged if not request.signature.pattern] or merged
    total = sum(request.count * _touched_bytes(request, batch) for request in dense)
    return {request.signature: max(1, round(total / _touched_bytes(request, batch))) for request in merged}


def _touched_bytes(request: GridRequest, batch: int) -> int:
    """Return the bytes of the operator's weights and output at its greatest widths, without a pattern."""
    signature, c_in, c_out = replace(request.signature, pattern=""), max(request.c_ins), max(request.c_outs)
    height, width = output_size(signature)
    return 4 * (num_weights(signature, c_in, c_out) + batch * c_out * height * width)


@dataclass(kw_only=True)
class _Probe:
    """One point under measurement."""

    signature: OpSignature
    point: Point
    run: Run
    rest: Run
    copies: int
    cold_bytes: float
    """Weights that a network finds further away."""
    held_bytes: int
    """Memory that no other probe shares."""


class Bench:
    """A runtime's lab, its weights, and what was measured with them on this machine so far."""

    def __init__(
        self,
        runtime: Runtime,
        profile: DeviceProfile,
        requests: Sequence[GridRequest],
        known: Entries,
    ) -> None:
        """Prepare to measure points of `requests`, on the scale of what is `known`."""
        self._runtime = runtime
        self._profile = profile
        self._copies = rotation_copies(requests, profile.batch)
        self._anchors = anchors(requests)
        earlier = [known.get(signature, {}).get(point) for signature, point in self._anchors]
        self.chunks = Chunks(self._anchors, [entry.p50_us if entry else math.nan for entry in earlier])
        self._done = self._again = 0
        self._lab = runtime.lab(profile)
        self._fixed: list[_Probe] = []
        self._cold = Cold(telling(requests), self._lab, profile.threads, runtime.max_copies)

    def measure(
        self, points: Sequence[Anchor], progress: Progress, keep: Callable[[Measured], None] = lambda found: None
    ) -> Measured:
        """Return entries for these points, timed in chunks that fit in memory, and once more where the machine was slow meanwhile.

        `progress(done, total)` counts all points so far; `total` grows where some are timed once more. `keep` gets all that was found
        after each chunk.
        """
        total = self._done + len(points)
        for chunk in self._timed(points, progress, total):
            self.chunks.add(chunk)
            self._again += 1
            keep(self.chunks.found())
        while self._again and (number := self.chunks.slowest()) is not None:
            self._again -= 1
            slow = self.chunks.points(number)
            total += len(slow)
            self.chunks.again(number, self._time([self._prepare(*point) for point in slow], progress, total))
            keep(self.chunks.found())
        found, asked = self.chunks.found(), Measured()
        for signature, point in points:
            asked.setdefault(signature, {})[point] = found[signature][point]
        return asked

    def _timed(self, points: Sequence[Anchor], progress: Progress, total: int) -> Iterator[Chunk]:
        """Yield all points, timed, as many at once as fit in memory."""
        probes: list[_Probe] = []
        for number, point in enumerate(points, start=1):
            probes.append(self._prepare(*point))
            full = len(probes) >= CHUNK_SESSIONS or sum(probe.held_bytes for probe in probes) > CHUNK_BYTES
            if full or number == len(points):
                chunk = self._time(probes, progress, total)
                probes.clear()
                yield chunk

    def _time(self, chunk: Sequence[_Probe], progress: Progress, total: int) -> Chunk:
        """Return what the chunk, and the anchors beside it, took in calm rounds."""
        fixed = self._fixed = self._fixed or [self._prepare(*anchor) for anchor in self._anchors]
        cold_us_per_byte = self._cold.us_per_byte()
        threads, probes = self._profile.threads, [*fixed, *chunk]
        rests = {probe.rest: Timed(probe.rest, threads) for probe in probes}
        timed = [Timed(probe.run, threads) for probe in probes]
        interleave(
            [*rests.values(), *timed], rounds=ROUNDS, slice_s=SLICE_S, min_runs=MIN_RUNS,
            on_round=lambda number: progress(self._done + len(chunk) * number // ROUNDS, total),
        )  # fmt: skip
        paces = by_round([one.round_medians for one in timed[: len(fixed)]])
        kept = counting(paces)
        rest_s = {run: float(np.median(one.clean_s(kept))) for run, one in rests.items()}
        entries = [_entry(probe, one, rest_s[probe.rest], kept) for probe, one in zip(probes, timed, strict=True)]
        seen = [Seen(entry=entry, cold_bytes=probe.cold_bytes) for probe, entry in zip(probes, entries, strict=True)]
        self._lab.clear()
        self._done += len(chunk)
        points = [(probe.signature, probe.point) for probe in chunk]
        return Chunk(
            points=dict(zip(points, seen[len(fixed) :], strict=True)), anchors=seen[: len(fixed)],
            rounds=paces[kept].tolist(), cold_us_per_byte=cold_us_per_byte,
        )  # fmt: skip

    def _prepare(self, signature: OpSignature, point: Point) -> _Probe:
        """Build the run of one point; a single copy tells how many fit into the time a run may take."""
        operator = self._lab.operator(signature, *point)
        is_first = point[0] <= MAX_IMAGE_CHANNELS and not on_vectors(signature)
        run = operator.run(1, own_outputs=False)
        estimate_s = max(Timed(run).quick_s(), 1e-6)
        height, width = output_size(signature)
        own_bytes = operator.weight_bytes + is_first * 4 * self._profile.batch * point[1] * height * width
        in_network = self._copies.get(signature, 1)
        copies = max(min(in_network, MAX_ROTATION_BYTES // max(own_bytes, 1)), round(MIN_GRAPH_S / estimate_s))
        copies = max(1, min(copies, MAX_COPIES, self._runtime.max_copies, int(MAX_GRAPH_S / estimate_s)))
        if copies > 1:
            run = operator.run(copies, own_outputs=is_first)
        own_outputs = is_first * copies * (own_bytes - operator.weight_bytes)
        held_bytes = max(LEAST_HELD_BYTES, operator.held_bytes(copies) + own_outputs)
        further = max(0.0, far_share(in_network * own_bytes) - far_share(copies * own_bytes))
        return _Probe(
            signature=signature, point=point, run=run, rest=operator.rest(copies), copies=copies,
            cold_bytes=further * operator.weight_bytes, held_bytes=held_bytes,
        )  # fmt: skip


def _entry(probe: _Probe, timed: Timed, rest_s: float, kept: np.ndarray) -> Entry:
    clean_us, all_us = ((np.array(s) - rest_s) / probe.copies * 1e6 for s in (timed.clean_s(kept), timed.seconds))
    # An operator that the clock cannot tell from nothing still has an entry above zero.
    p50, p90 = np.maximum(np.percentile(clean_us, (50, 90)), 1e-3)
    samples = tuple(np.round(all_us[:MOST_SAMPLES], 3).tolist())
    return Entry(p50_us=float(p50), p90_us=float(p90), num_samples=len(clean_us), samples_us=samples)
