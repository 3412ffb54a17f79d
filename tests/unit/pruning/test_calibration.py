"""Whole networks beside their sums: drift cancels, and a fit takes the place of the one before."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import pytest

from lut.calibrate import Calibration
from lut.measure.runtime import Program
from lut.measure.timing import Timing
from lut.profile import DeviceProfile
from lut.signature import OpSignature
from lut.table import Entry, LatencyTable
from pruning.calibration import IN_TURNS, LOADS, calibrated, in_turns, masks_calibrated, plain

PROFILE = DeviceProfile(hardware="test", runtime="none", runtime_version="0", threads=1, batch=1)
SIGNATURE = OpSignature(kind="conv", height=4, width=4)
TABLE = LatencyTable(
    profile=PROFILE, entries={SIGNATURE: {(8, 8): Entry(p50_us=10.0, p90_us=11.0, num_samples=9)}}, scale=3.0, offset_us=7.0
)  # fmt: skip


LOWERED = replace(SIGNATURE, pattern="4x1@1/2")


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
    assert turns.dense_us == pytest.approx(fmean(1e4 * 1.5 ** (1 + turn) for turn in range(2 * LOADS)))
    assert [us / turns.dense_us for us in turns.measured_us] == pytest.approx([0.8, 0.6, 0.4, 0.3, 0.2, 0.1])
    assert turns.spread == pytest.approx([0.0] * 6, abs=1e-9)


def test_what_loads_of_one_network_differ_by_is_told() -> None:
    factors = iter([1.0, 1.02, 0.99, 1.0])

    def measure(programs: Sequence[Program]) -> list[Timing]:
        dense, *others = [float(program.onnx.decode()) for program in programs if isinstance(program.onnx, bytes)]
        factor = next(factors)
        return [timing(dense), *(timing(factor * other) for other in others)]

    networks = [Program(onnx=str(ms).encode()) for ms in (8.0, 6.0)]
    turns = in_turns(measure, Program(onnx=b"10.0"), networks, num_loads=4)
    assert turns.spread == pytest.approx([1.02 / 0.99 - 1] * 2)
    mean = (1.0 * 1.02 * 0.99 * 1.0) ** 0.25
    assert turns.measured_us == pytest.approx([mean * 8000, mean * 6000])


def test_where_the_dense_network_lies_badly_once_the_others_tell_how_they_stand() -> None:
    """Six networks, four loads in two parts each; the dense one takes a fifth longer in one of the eight."""
    luck = iter([1.0, 1.2] + [1.0] * 6)
    together: list[set[bytes]] = []

    def measure(programs: Sequence[Program]) -> list[Timing]:
        given = [program.onnx for program in programs if isinstance(program.onnx, bytes)]
        together.append(set(given[1:]))
        dense, *others = map(float, given)
        return [timing(next(luck) * dense), *map(timing, others)]

    levels = (8.0, 6.0, 4.0, 3.0, 2.0, 1.0)
    turns = in_turns(measure, Program(onnx=b"10.0"), [Program(onnx=str(ms).encode()) for ms in levels], num_loads=4)
    found = [10 * us / turns.dense_us / ms for us, ms in zip(turns.measured_us, levels, strict=True)]
    assert max(found) / min(found) < 1.02, (
        "over the dense network alone: 4 % more for those that shared that load with it"
    )
    assert len({frozenset(some) for some in together}) > 2, "another four each time"


@pytest.mark.parametrize(("lucks", "num_loads"), [((1.0, 1.01), 2), ((1.0, 1.1, 1.0, 1.0), 4), ((1.0, 1.04, 1.02), 3)])
def test_where_loads_differ_there_are_more_up_to_twice_as_many(lucks: tuple[float, ...], num_loads: int) -> None:
    given = iter(lucks + (1.0,) * 9)
    loads = 0
    told: list[tuple[int, int]] = []

    def measure(programs: Sequence[Program]) -> list[Timing]:
        nonlocal loads
        loads, luck = loads + 1, next(given)
        dense, *others = [float(program.onnx) for program in programs if isinstance(program.onnx, bytes)]
        return [timing(dense), *(timing(luck * other) for other in others)]

    networks = [Program(onnx=b"5.0"), Program(onnx=b"2.0")]
    in_turns(measure, Program(onnx=b"10.0"), networks, num_loads=2, progress=lambda *part: told.append(part))
    assert loads == num_loads
    assert told == [(turn, max(turn, 2)) for turn in range(1, num_loads + 1)]


def test_rounds_that_were_slow_for_all_tell_nothing() -> None:
    def measure(programs: Sequence[Program]) -> list[Timing]:
        slow = (1.0, 3.0, 1.0, 2.0, 1.0)
        given = [float(program.onnx) for program in programs if isinstance(program.onnx, bytes)]
        return [replace(timing(ms), rounds_ms=tuple(ms * factor for factor in slow)) for ms in given]

    turns = in_turns(measure, Program(onnx=b"10.0"), [Program(onnx=b"5.0"), Program(onnx=b"2.0")])
    assert [us / turns.dense_us for us in turns.measured_us] == pytest.approx([0.5, 0.2])


def test_a_fit_replaces_the_one_before_and_its_residual_is_kept() -> None:
    table = calibrated(TABLE, [100.0, 200.0, 400.0], [115.0, 220.0, 430.0])
    assert (table.scale, table.offset_us) == (pytest.approx(1.05, rel=0.005), pytest.approx(10.0, rel=0.05))
    assert table.latency_us(SIGNATURE, 8, 8) == pytest.approx(10.5, rel=0.005)
    assert table.residual == pytest.approx(0.0, abs=0.002)
    off = calibrated(table, [100.0, 200.0, 400.0], [100.0, 240.0, 400.0])
    assert LatencyTable.from_json(off.to_json()).residual == off.residual > 0 or off.residual == 0
    assert plain(off).entries == TABLE.entries and plain(off).predict_us([(SIGNATURE, 8, 8)]) == 10.0
    assert off.merge(LatencyTable(profile=PROFILE, entries={})).residual == off.residual


def test_masked_layers_take_in_networks_what_those_tell() -> None:
    entries = {**TABLE.entries, LOWERED: {(8, 8): Entry(p50_us=4.0, p90_us=5.0, num_samples=9)}}
    table = replace(TABLE, entries=entries, scale=2.0, offset_us=1.0, masked_scale=1.7)
    networks = [[(SIGNATURE, 8, 8), *[(LOWERED, 8, 8)] * num] for num in (4, 8, 20)]
    told = [lambda table, network=network: table.predict_us(network) for network in networks]
    # By themselves 21 and 8 a lowered layer, here 10 a layer, and one network was disturbed.
    fitted = masks_calibrated(table, told, [21.0 + 4 * 10.0, 21.0 + 8 * 10.0, 3 * (21.0 + 20 * 10.0)])
    assert fitted.masked_scale == pytest.approx(1.25, rel=0.02)
    assert fitted.latency_us(LOWERED, 8, 8) == pytest.approx(10.0, rel=0.02)
    assert fitted.latency_us(SIGNATURE, 8, 8) == 20.0, "layers without a pattern cost what they did"
    assert masks_calibrated(table, told, [1.0] * 3).masked_scale == 0.5, "no device is as fast as that"
    # Networks in which masked layers are hardly anything hardly tell.
    large = lambda table: table.predict_us([(SIGNATURE, 8, 8)] * 100 + [(LOWERED, 8, 8)])  # noqa: E731
    assert masks_calibrated(table, [large], [1.05 * 2009.0]).masked_scale == pytest.approx(1.0, abs=0.02)
    # Who measures no masked network leaves what an earlier measurement found.
    assert masks_calibrated(table, [], []) == table
    assert calibrated(fitted, [10.0], [12.0]).masked_scale == fitted.masked_scale
    again = LatencyTable.from_json(fitted.to_json())
    assert (
        again == fitted and again.merge(LatencyTable(profile=PROFILE, entries={})).masked_scale == fitted.masked_scale
    )
    assert fitted.calibrated(Calibration(scale=2.0)).latency_us(LOWERED, 8, 8) == pytest.approx(20.0, rel=0.02)
    assert plain(fitted).latency_us(LOWERED, 8, 8) == 4.0
