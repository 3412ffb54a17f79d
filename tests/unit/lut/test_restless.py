"""A machine that is restless while it is measured: what is measured again, and what a table says about it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from lut.entry import Entry
from lut.measure import bench as module
from lut.measure.bench import MAX_AGAIN, MAX_AGAIN_IN_ALL, Bench, rotation_copies
from lut.measure.pace import LEAST_ROUNDS, NUM_ANCHORS, Pace, anchors, by_round, calm, counting, moved
from lut.measure.runtime import Run
from lut.measure.tables import silent
from lut.profile import DeviceProfile
from lut.request import GridRequest
from lut.signature import OpSignature
from lut.table import LatencyTable

PROFILE = DeviceProfile(hardware="test", runtime="clock", runtime_version="0", threads=1, batch=1)
CONV = OpSignature(kind="conv", height=4, width=4)


@dataclass
class Machine:
    """A runtime whose clock says what the test wants: an operator takes 1 ms times the factor of the moment."""

    factor: float = 1.0
    name: str = "clock"
    max_copies: int = 1

    def lab(self, profile: DeviceProfile) -> "Machine":
        return self

    def clear(self) -> None:
        pass

    def operator(self, signature: OpSignature, c_in: int, c_out: int) -> "Kernel":
        return Kernel(machine=self)


@dataclass
class Kernel:
    machine: Machine
    weight_bytes: int = 1 << 20

    def held_bytes(self, copies: int) -> int:
        return 1

    def run(self, copies: int, *, own_outputs: bool) -> Run:
        return lambda: copies * 1e-3 * self.machine.factor

    def rest(self, copies: int) -> Run:
        return _nothing


def _nothing() -> float:
    return 0.0


def bench(machine: Machine, known: dict[tuple[int, int], Entry] | None = None) -> Bench:
    """A bench on that machine; `known` are entries of an earlier measurement."""
    request = GridRequest(signature=CONV, c_ins=(8,), c_outs=(8,))
    return Bench(machine, PROFILE, [request], {CONV: known} if known else {})  # type: ignore[arg-type]


def measured_us(
    made: Bench, machine: Machine, factors: list[float | tuple[float, float]], monkeypatch: pytest.MonkeyPatch
) -> float:
    """Measure one chunk whose successive measurements run at `factors`, a pair for one whose pace changes after the second
    round; return the entry, in microseconds.
    """
    waiting, real = iter(factors), module.interleave

    def interleave(*args: Any, on_round: Callable[[int], None], **kwargs: Any) -> None:
        factor = next(waiting)
        first, then = factor if isinstance(factor, tuple) else (factor, factor)
        machine.factor = first

        def after(number: int) -> None:
            machine.factor = first if number < 2 else then
            on_round(number)

        real(*args, on_round=after, **kwargs)

    monkeypatch.setattr(module, "interleave", interleave)
    entry = made.measure([(CONV, (8, 8))], silent)[CONV][8, 8]
    monkeypatch.setattr(module, "interleave", real)
    assert next(waiting, None) is None, "measured as often as there are factors"
    return entry.p50_us


def test_a_chunk_on_a_slower_machine_is_put_on_the_scale_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    made = bench(machine)
    assert measured_us(made, machine, [1.0], monkeypatch) == pytest.approx(1000)
    assert measured_us(made, machine, [1.09], monkeypatch) == pytest.approx(1000)
    assert measured_us(made, machine, [0.9], monkeypatch) == pytest.approx(1000)
    assert made.pace.drift == 0 and made.pace.noise == 0


def test_a_chunk_slower_than_another_is_timed_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    made = bench(machine)
    assert measured_us(made, machine, [1.0], monkeypatch) == pytest.approx(1000)
    assert measured_us(made, machine, [1.3, 1.05], monkeypatch) == pytest.approx(1000), "the calm half counts"
    assert measured_us(made, machine, [1.3] * (1 + MAX_AGAIN), monkeypatch) == pytest.approx(1000), "all were as slow"
    assert made.pace.least == 1.0


def test_what_is_measured_later_joins_the_scale_of_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, earlier = Machine(), Entry(p50_us=800.0, p90_us=810.0, num_samples=5, samples_us=(800.0, 810.0))
    made = bench(machine, {(8, 8): earlier})
    assert measured_us(made, machine, [1.1], monkeypatch) == pytest.approx(800)
    assert made.pace.usual == {(CONV, (8, 8)): earlier}


def test_of_a_chunk_whose_pace_moved_the_calm_rounds_count(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    made = bench(machine)
    assert measured_us(made, machine, [1.0], monkeypatch) == pytest.approx(1000)
    assert measured_us(made, machine, [(1.0, 1.04)], monkeypatch) == pytest.approx(1000, rel=0.05), (
        "not enough to matter"
    )
    assert measured_us(made, machine, [(1.0, 1.3), (1.3, 1.0)], monkeypatch) == pytest.approx(1000)
    assert made.pace.drift == pytest.approx(0.04)
    restless = bench(machine)
    assert measured_us(restless, machine, [(1.0, 1.5)] * 2, monkeypatch) == pytest.approx(1000)
    assert not restless.pace.drift and not restless.pace.noise, "what did not count is nothing the table has"


def test_a_chunk_that_was_never_calm_makes_a_noisy_table() -> None:
    pace, rounds = Pace({}), np.array([1.0, 1.5, 1.4, 1.6, 1.7])
    pace.keep({}, rounds[counting(rounds)].tolist())
    table = LatencyTable(profile=PROFILE, entries={}, noise=pace.noise, drift=pace.drift)
    assert table.noisy and LatencyTable.from_json(table.to_json()) == table


def test_a_machine_that_stays_restless_does_not_take_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    made = bench(machine)
    for _ in range(MAX_AGAIN_IN_ALL):
        measured_us(made, machine, [(1.0, 1.5)] * 2, monkeypatch)
    measured_us(made, machine, [(1.0, 1.5)], monkeypatch)


def test_the_pace_is_the_middle_of_the_anchors_round_by_round() -> None:
    paces = by_round([[1.0, 1.0, 1.0, 1.2], [3.0, 3.0, 3.0, 3.6], [2.0, 9.0, 2.0, 2.4]])
    assert paces == pytest.approx([1.0, 1.0, 1.0, 1.2]) and calm(paces).tolist() == [True, True, True, False]
    restless = np.array([1.0, 1.5, 1.4, 1.6, 1.7])
    assert calm(restless).sum() == 1 and counting(restless).sum() == LEAST_ROUNDS, "the calmest there are"
    assert counting(np.array([1.0, 2.0])).all(), "too few to choose from"
    assert moved([1.0] * 5) == 0
    assert moved([1.0, 1.0, 1.0, 1.2, 1.2]) == pytest.approx(0.2)
    assert moved([1.0, 1.0, 9.0, 1.0, 1.0]) == 0, "one round is an accident"


def test_one_anchor_that_is_off_does_not_move_the_pace() -> None:
    def seen(*p50_us: float) -> dict[Any, Entry]:
        return {
            (CONV, (n, n)): Entry(p50_us=us, p90_us=us, num_samples=5) for n, us in enumerate(p50_us, start=1)
        }  # fmt: skip

    pace = Pace({})
    assert pace.of(seen(10, 20, 30)) == 1.0, "nothing came before"
    pace.keep(seen(10, 20, 30), [1.0] * 5)
    assert pace.of(seen(11, 22, 90)) == pytest.approx(1.1)
    pace.keep(seen(11, 22, 90), [1.0] * 5)
    assert [entry.p50_us for entry in pace.usual.values()] == [10, 20, 30], "the first chunk stays the scale"


def test_anchors_are_the_dearest_operators_without_a_pattern() -> None:
    sizes = range(1, 2 * NUM_ANCHORS + 1)
    requests = [
        GridRequest(signature=replace(CONV, height=n, width=n, pattern=pattern), c_ins=(8, 16, 32), c_outs=(64,))
        for n in sizes for pattern in ("", "64x1@1/2")
    ]  # fmt: skip
    chosen = anchors(requests)
    assert [signature.height for signature, _ in chosen] == list(sizes)[: NUM_ANCHORS - 1 : -1]
    assert {point for _, point in chosen} == {(16, 64)} and not any(signature.pattern for signature, _ in chosen)


def test_an_operator_is_copied_as_often_as_a_network_has_room_for_it() -> None:
    small = GridRequest(signature=CONV, c_ins=(8, 16), c_outs=(16,), count=3)
    large = GridRequest(signature=replace(CONV, kernel=(3, 3), padding=(1, 1)), c_ins=(8, 16), c_outs=(16,))
    bytes_of = [4 * (16 * 16 * taps + 16 * 4 * 4) for taps in (1, 9)]
    total = 3 * bytes_of[0] + bytes_of[1]
    expected = [round(total / one) for one in bytes_of]
    assert list(rotation_copies([small, large], batch=1).values()) == expected
    patterned = replace(large, signature=replace(large.signature, pattern="16x1@1/2"))
    copies = rotation_copies([small, large, patterned], batch=1)
    assert list(copies.values()) == [*expected, expected[1]], "a pattern stands for the dense layer, which is counted"


def test_a_calm_table_is_not_noisy_and_says_nothing_of_drift() -> None:
    table = LatencyTable(profile=PROFILE, entries={}, noise=0.02)
    assert not table.noisy and "drift" not in table.to_json()
