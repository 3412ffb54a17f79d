"""Whole networks beside their sums: drift cancels, and a fit takes the place of the one before."""

from collections.abc import Sequence

import pytest

from lut.measure.runtime import Program
from lut.measure.timing import Timing
from lut.profile import DeviceProfile
from lut.signature import OpSignature
from lut.table import Entry, LatencyTable
from pruning.calibration import IN_TURNS, LOADS, calibrated, in_turns, plain

PROFILE = DeviceProfile(hardware="test", runtime="none", runtime_version="0", threads=1, batch=1)
SIGNATURE = OpSignature(kind="conv", height=4, width=4)
TABLE = LatencyTable(
    profile=PROFILE, entries={SIGNATURE: {(8, 8): Entry(p50_us=10.0, p90_us=11.0, num_samples=9)}}, scale=3.0, offset_us=7.0
)  # fmt: skip


def timing(p50_ms: float) -> Timing:
    return Timing(
        p50_ms=p50_ms, p90_ms=p50_ms, num_samples=1, samples_ms=(p50_ms,), num_disturbed=0, busy=False, noise=0.0
    )  # fmt: skip


def test_a_machine_that_gets_slower_changes_nothing() -> None:
    slower = 1.0
    sizes: list[int] = []

    def measure(programs: Sequence[Program]) -> list[Timing]:
        nonlocal slower
        sizes.append(len(programs))
        slower *= 1.5
        return [
            timing(slower * float(program.onnx.decode())) for program in programs if isinstance(program.onnx, bytes)
        ]

    networks = [Program(onnx=str(ms).encode()) for ms in (8.0, 6.0, 4.0, 3.0, 2.0, 1.0)]
    turns = in_turns(measure, Program(onnx=b"10.0"), networks)
    assert sizes == LOADS * [1 + IN_TURNS, 1 + len(networks) - IN_TURNS]
    assert turns.dense_us == pytest.approx((15_000 + 33_750) / LOADS)
    assert [us / turns.dense_us for us in turns.measured_us] == pytest.approx([0.8, 0.6, 0.4, 0.3, 0.2, 0.1])
    assert turns.spread == pytest.approx([0.0] * 6, abs=1e-9)


def test_what_loads_of_one_network_differ_by_is_told() -> None:
    factors = iter([1.0, 1.02, 0.9, 1.0])

    def measure(programs: Sequence[Program]) -> list[Timing]:
        dense, *others = [float(program.onnx.decode()) for program in programs if isinstance(program.onnx, bytes)]
        factor = next(factors)
        return [timing(dense), *(timing(factor * other) for other in others)]

    networks = [Program(onnx=str(ms).encode()) for ms in (8.0, 6.0)]
    turns = in_turns(measure, Program(onnx=b"10.0"), networks, num_loads=4)
    assert turns.spread == pytest.approx([1.02 / 0.9 - 1] * 2)
    assert turns.measured_us == pytest.approx([7840.0, 5880.0])


def test_a_fit_replaces_the_one_before_and_its_residual_is_kept() -> None:
    table = calibrated(TABLE, [100.0, 200.0, 400.0], [115.0, 220.0, 430.0])
    assert (table.scale, table.offset_us) == (pytest.approx(1.05), pytest.approx(10.0))
    assert table.latency_us(SIGNATURE, 8, 8) == pytest.approx(10.5)
    assert table.residual == pytest.approx(0.0, abs=1e-6)
    off = calibrated(table, [100.0, 200.0, 400.0], [100.0, 240.0, 400.0])
    assert LatencyTable.from_json(off.to_json()).residual == off.residual > 0 or off.residual == 0
    assert plain(off).entries == TABLE.entries and plain(off).predict_us([(SIGNATURE, 8, 8)]) == 10.0
    assert off.merge(LatencyTable(profile=PROFILE, entries={})).residual == off.residual
