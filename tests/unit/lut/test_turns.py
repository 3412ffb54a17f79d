"""Networks timed in turns: drift cancels, what neighbours slow down does not count, and doubt brings more loads."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

import pytest

from lut.measure.runtime import Program
from lut.measure.timing import Timing
from lut.measure.turns import IN_TURNS, LOADS, MOST_LOADS, in_turns

MS = (8.0, 6.0, 4.0, 3.0, 2.0, 1.0)


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
        slower *= 1.02
        return [
            timing(slower * float(program.onnx.decode())) for program in programs if isinstance(program.onnx, bytes)
        ]

    turns = in_turns(measure, Program(onnx=b"10.0"), [Program(onnx=str(ms).encode()) for ms in MS])
    assert sizes == LOADS * [1 + IN_TURNS, 1 + len(MS) - IN_TURNS]
    assert turns.dense_us == pytest.approx(fmean(1e4 * 1.02 ** (1 + turn) for turn in range(2 * LOADS)))
    assert [us / turns.dense_us for us in turns.measured_us] == pytest.approx([ms / 10 for ms in MS])
    assert turns.spread == pytest.approx([0.0] * 6, abs=1e-9)
    assert turns.calm == 1.0


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


@pytest.mark.parametrize(("lucks", "num_loads"), [((1.0, 1.01), 2), ((1.0, 1.1, 1.0, 1.0), 6), ((1.0, 1.04, 1.02), 3)])
def test_where_loads_differ_there_are_more_up_to_three_times_as_many(lucks: tuple[float, ...], num_loads: int) -> None:
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


def machine(slow: Callable[[int], float], rounds: int = 5) -> Callable[[Sequence[Program]], list[Timing]]:
    """Return a `measure` on which everything takes `slow(round)` ms longer, rounds counted from its first turn."""
    begun = 0

    def measure(programs: Sequence[Program]) -> list[Timing]:
        nonlocal begun
        longer = [slow(number) for number in range(begun, begun + rounds)]
        begun += rounds
        given = [float(program.onnx) for program in programs if isinstance(program.onnx, bytes)]
        return [replace(timing(ms), rounds_ms=tuple(ms + more for more in longer)) for ms in given]

    return measure


@pytest.mark.parametrize(
    "slow",
    [
        pytest.param(lambda number: 3.0 * (number % 20 < 10), id="two turns in four"),
        pytest.param(lambda number: 3.0 * (number % 5 > 1), id="three rounds in five"),
        pytest.param(lambda number: 3.0 * (number < 13 or number % 30 > 12), id="most of it"),
    ],
)
def test_neighbours_that_slow_all_networks_by_as_much_do_not_count(slow: Callable[[int], float]) -> None:
    turns = in_turns(machine(slow), Program(onnx=b"10.0"), [Program(onnx=str(ms).encode()) for ms in MS], num_loads=4)
    assert turns.dense_us == pytest.approx(1e4)
    assert turns.measured_us == pytest.approx([1e3 * ms for ms in MS])
    assert 0.3 < turns.calm < 0.7


def test_a_network_that_met_no_calm_round_is_told_by_the_calmest_it_had() -> None:
    """Whatever is in turn with the smallest network takes 3 ms longer, each time; the others have calm turns without it."""

    def measure(programs: Sequence[Program]) -> list[Timing]:
        given = [float(program.onnx) for program in programs if isinstance(program.onnx, bytes)]
        return [timing(ms + 3.0 * (MS[-1] in given)) for ms in given]

    turns = in_turns(measure, Program(onnx=b"10.0"), [Program(onnx=str(ms).encode()) for ms in MS], num_loads=4)
    *others, least = turns.measured_us
    assert 0.2 < turns.calm < 0.8
    assert others == pytest.approx([1e3 * ms for ms in MS[:-1]], rel=0.3)
    assert least / 1e3 == pytest.approx(4.0 * 10.0 / 13.0, rel=0.1), "it was slow beside a dense network that was"


def test_a_machine_that_is_slower_than_usual_is_waited_for() -> None:
    measure, turns = machine(lambda number: 3.0 * (number < 45)), 0

    def counted(programs: Sequence[Program]) -> list[Timing]:
        nonlocal turns
        turns += 1
        return measure(programs)

    networks = [Program(onnx=str(ms).encode()) for ms in MS]
    slow = in_turns(counted, Program(onnx=b"10.0"), networks, num_loads=4)
    assert turns == 2 * 4 and slow.dense_us == pytest.approx(13e3), "it does not know better"
    measure, turns = machine(lambda number: 3.0 * (number < 45)), 0
    calm = in_turns(counted, Program(onnx=b"10.0"), networks, num_loads=4, usual_us=1e4)
    assert 2 * 4 < turns <= 2 * 4 * MOST_LOADS
    assert calm.dense_us == pytest.approx(1e4)
    assert calm.measured_us == pytest.approx([1e3 * ms for ms in MS])
