"""What weights cost from far is told by operators that rotate through few of them and through many."""

import math
from dataclasses import dataclass, replace
from typing import cast

import pytest

from lut.entry import Entry
from lut.measure.bench import Bench
from lut.measure.chunks import Chunk, Chunks, Seen
from lut.measure.cold import COLD_BYTES, WARM_BYTES, Cold, far_share, telling
from lut.measure.runtime import Operator, Run, Runtime
from lut.profile import DeviceProfile
from lut.request import GridRequest, num_weights
from lut.signature import OpSignature

NEAR_US_PER_MB, FAR_US_PER_MB = 20.0, 70.0
LATE = OpSignature(kind="conv", height=7, width=7, kernel=(3, 3), padding=(1, 1))
EARLY = replace(LATE, height=56, width=56)
COUNTS = tuple(range(16, 513, 16))


@dataclass(frozen=True)
class Device:
    """A lab whose operators take as long as their weights take to arrive, by a clock of its own."""

    def operator(self, signature: OpSignature, c_in: int, c_out: int) -> Operator:
        return Streamed(4 * num_weights(signature, c_in, c_out))

    def clear(self) -> None:
        """It shares nothing."""


@dataclass(frozen=True)
class Streamed:
    weight_bytes: int

    def held_bytes(self, copies: int) -> int:
        return copies * self.weight_bytes

    def run(self, copies: int, *, own_outputs: bool) -> Run:
        through = copies * self.weight_bytes
        far = far_share(through)
        return lambda: through / 1e12 * ((1 - far) * NEAR_US_PER_MB + far * FAR_US_PER_MB)

    def rest(self, copies: int) -> Run:
        return lambda: 0.0


def test_the_share_that_is_far_grows_from_none_to_all() -> None:
    shares = [far_share(volume) for volume in (0, WARM_BYTES, 2 * WARM_BYTES, COLD_BYTES // 2, COLD_BYTES, 10**12)]
    assert shares == sorted(shares) and shares[:2] == [0, 0] and shares[-2:] == [1, 1]
    assert 0 < shares[2] < shares[3] < 1


def test_late_layers_tell_and_linear_or_narrow_ones_do_not() -> None:
    linear = OpSignature(kind="linear", height=1, width=1)
    masked = replace(LATE, pattern="32x1@1/2")
    narrow = replace(LATE, height=14, width=14)
    requests = [GridRequest(signature=one, c_ins=COUNTS, c_outs=COUNTS) for one in (EARLY, linear, masked, LATE)]
    requests.append(GridRequest(signature=narrow, c_ins=(16,), c_outs=(16,)))
    assert [signature for signature, _ in telling(requests)] == [LATE, EARLY]
    assert telling(requests[1:3]) == []


def test_what_a_byte_costs_from_far_is_found() -> None:
    points = telling([GridRequest(signature=LATE, c_ins=COUNTS, c_outs=COUNTS)])
    assert Cold(points, Device(), 1, 64).us_per_byte() * 1e6 == pytest.approx(FAR_US_PER_MB - NEAR_US_PER_MB)
    assert Cold(points, Device(), 1, 1).us_per_byte() == 0.0  # a runtime that cannot rotate tells nothing
    assert Cold([], Device(), 1, 64).us_per_byte() == 0.0


def test_an_entry_costs_what_it_does_in_a_network_of_its_size() -> None:
    requests = [GridRequest(signature=LATE, c_ins=COUNTS, c_outs=COUNTS, count=3)]
    (_, wide), (_, narrow) = points = [(LATE, (512, 512)), (LATE, (96, 96))]
    profile = DeviceProfile(hardware="box", runtime="own clock", runtime_version="1", threads=1, batch=1)
    bench = Bench(cast(Runtime, OwnClock()), profile, requests, {})
    entries = bench.measure(points, lambda done, total: None)[LATE]
    for pair in (wide, narrow):
        own = 4 * num_weights(LATE, *pair)
        far = far_share(3 * own)
        us = own / 1e6 * ((1 - far) * NEAR_US_PER_MB + far * FAR_US_PER_MB)
        assert entries[pair].p50_us == pytest.approx(us, rel=1e-3)
    assert far_share(3 * 4 * num_weights(LATE, *wide)) > 0 == far_share(3 * 4 * num_weights(LATE, *narrow))


def test_what_most_chunks_say_of_a_byte_from_far_counts() -> None:
    entry = Entry(p50_us=10.0, p90_us=11.0, num_samples=1, samples_us=(10.0,))
    chunks = Chunks([(EARLY, (1, 1))], [math.nan])
    for number, us_per_byte in enumerate((1.0, 9.0, 2.0), start=1):
        own = {(LATE, (number, 1)): Seen(entry=entry, cold_bytes=3.0)}
        fixed = [Seen(entry=entry, cold_bytes=0.0)]
        chunks.add(Chunk(points=own, anchors=fixed, rounds=[1.0], cold_us_per_byte=us_per_byte))
    found = chunks.found()
    assert [found[LATE][number, 1].p50_us for number in (1, 2, 3)] == pytest.approx([16.0] * 3)
    assert found[LATE][1, 1].samples_us == (16.0,) and found[EARLY][1, 1].p50_us == pytest.approx(10.0)


class OwnClock:
    """A runtime of that device."""

    max_copies = 64

    def lab(self, profile: DeviceProfile) -> Device:
        return Device()
