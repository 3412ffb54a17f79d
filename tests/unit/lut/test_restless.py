"""A machine that is restless while it is measured: what is measured again, and what a table says about it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from lut.entry import Entry
from lut.measure import bench as module
from lut.measure.bench import Bench, rotation_copies
from lut.measure.pace import LEAST_ROUNDS, NUM_ANCHORS, anchors, by_round, calm, counting, levels, moved
from lut.measure.runtime import Run
from lut.measure.tables import silent
from lut.profile import DeviceProfile
from lut.request import GridRequest
from lut.signature import OpSignature
from lut.table import LatencyTable

PROFILE = DeviceProfile(hardware="test", runtime="clock", runtime_version="0", threads=1, batch=1)
CONV = OpSignature(kind="conv", height=4, width=4)
WIDE = 64
"""Output channels above which an operator suffers from a slow machine more than others do."""


@dataclass
class Machine:
    """A runtime whose clock says what the test wants: an operator takes 1 ms times the factor of the moment, a wide one more."""

    factor: float = 1.0
    name: str = "clock"
    max_copies: int = 1

    def lab(self, profile: DeviceProfile) -> "Machine":
        return self

    def clear(self) -> None:
        pass

    def operator(self, signature: OpSignature, c_in: int, c_out: int) -> "Kernel":
        return Kernel(machine=self, suffers=2 if c_out > WIDE else 1)


@dataclass
class Kernel:
    machine: Machine
    suffers: int
    weight_bytes: int = 1 << 20

    def held_bytes(self, copies: int) -> int:
        return 1

    def run(self, copies: int, *, own_outputs: bool) -> Run:
        return lambda: copies * 1e-3 * self.machine.factor**self.suffers

    def rest(self, copies: int) -> Run:
        return _nothing


def _nothing() -> float:
    return 0.0


def bench(machine: Machine, known: dict[tuple[int, int], Entry] | None = None) -> Bench:
    """A bench on that machine; `known` are entries of an earlier measurement."""
    request = GridRequest(signature=CONV, c_ins=(8,), c_outs=(8,))
    return Bench(machine, PROFILE, [request], {CONV: known} if known else {})  # type: ignore[arg-type]


Factor = float | tuple[float, float]


def measured_us(
    made: Bench, machine: Machine, factors: Sequence[Factor], monkeypatch: pytest.MonkeyPatch, widths: Sequence[int]
) -> list[float]:
    """Measure a chunk for each of `widths`; all that is timed, one after another, runs at `factors`, a pair for a pace that changes
    after the second round. Return the entries in microseconds.
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

    with monkeypatch.context() as patch:
        patch.setattr(module, "interleave", interleave)
        patch.setattr(module, "CHUNK_SESSIONS", 1)
        entries = made.measure([(CONV, (8, width)) for width in widths], silent)[CONV]
    assert next(waiting, None) is None, "measured as often as there are factors"
    return [entries[8, width].p50_us for width in widths]


def test_chunks_of_a_machine_whose_pace_differs_are_put_on_one_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    made = bench(machine)
    assert measured_us(made, machine, [1.0, 1.08, 1.04], monkeypatch, [16, 24, 32]) == pytest.approx([1040] * 3)
    assert made.chunks.drift == 0 and made.chunks.noise == 0


def test_a_chunk_slower_than_another_is_timed_once_more_when_all_were(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, widths = Machine(), [16, WIDE + 8, WIDE + 16]
    assert measured_us(bench(machine), machine, [1.0, 1.05, 1.0], monkeypatch, widths) == pytest.approx(
        [1e3] * 3, rel=0.06
    )
    slow = [1.0, 1.3, 1.0, 1.0]
    assert measured_us(bench(machine), machine, slow, monkeypatch, widths) == pytest.approx([1e3] * 3)
    first = [1.3, 1.0, 1.0, 1.0]
    assert measured_us(bench(machine), machine, first, monkeypatch, widths[::-1]) == pytest.approx([1e3] * 3)
    slower = [1.0, 1.3, 1.0, 1.5, 1.5, 1.5]
    assert measured_us(bench(machine), machine, slower, monkeypatch, widths) == pytest.approx([1e3, 1.3e3, 1e3])


def test_slow_chunks_take_turns_and_a_machine_that_stays_slow_does_not_take_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine, widths = Machine(), [16, WIDE + 8, WIDE + 16]
    turns = [1.0, 1.2, 1.3, 1.3, 1.0, 1.0]
    assert measured_us(bench(machine), machine, turns, monkeypatch, widths) == pytest.approx([1e3] * 3)
    made = bench(machine)
    stays = [1.0, 1.3, 1.3, 1.3, 1.3, 1.3]
    assert measured_us(made, machine, stays, monkeypatch, widths) == pytest.approx([1e3, 1.3e3, 1.3e3])
    assert measured_us(made, machine, [1.0, 1.0], monkeypatch, [24]) == pytest.approx([1e3]), "one more for one more"


def test_progress_and_what_is_kept_know_of_points_timed_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, seen, kept = Machine(), list[tuple[int, int]](), list[int]()
    real, waiting = module.interleave, iter([1.0, 1.3, 1.0])

    def interleave(*args: Any, **kwargs: Any) -> None:
        machine.factor = next(waiting)
        real(*args, **kwargs)

    monkeypatch.setattr(module, "interleave", interleave)
    monkeypatch.setattr(module, "CHUNK_SESSIONS", 2)
    points = [(CONV, (8, width)) for width in (16, 24, 32, 40)]
    bench(machine).measure(points, lambda *both: seen.append(both), lambda found: kept.append(len(found[CONV])))
    assert seen == sorted(seen) and seen[-1] == (6, 6) and {total for _, total in seen} == {4, 6}
    assert kept == [3, 5, 5], "two points a chunk, and the anchor"


def test_what_is_measured_later_joins_the_scale_of_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, earlier = Machine(), Entry(p50_us=800.0, p90_us=810.0, num_samples=5, samples_us=(800.0, 810.0))
    made = bench(machine, {(8, 8): earlier})
    assert measured_us(made, machine, [1.1], monkeypatch, [16]) == pytest.approx([800])
    assert (8, 8) not in made.chunks.found()[CONV], "what is known stays as it is"


def test_of_a_chunk_whose_pace_moved_the_calm_rounds_count(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    made = bench(machine)
    assert measured_us(made, machine, [1.0], monkeypatch, [16]) == pytest.approx([1000])
    assert measured_us(made, machine, [(1.0, 1.04)], monkeypatch, [24]) == pytest.approx([1000], rel=0.05)
    assert made.chunks.drift == pytest.approx(0.04), "not enough to matter"
    restless = bench(machine)
    assert measured_us(restless, machine, [(1.3, 1.0)], monkeypatch, [WIDE + 8]) == pytest.approx([1000])
    assert not restless.chunks.drift and not restless.chunks.noise, "what did not count is nothing the table has"


def test_a_chunk_of_which_too_few_rounds_were_calm_is_timed_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    made = bench(machine)
    assert measured_us(made, machine, [(1.0, 1.5), 1.02], monkeypatch, [16]) == pytest.approx([1020])
    assert not made.chunks.noise and not made.chunks.drift
    never = bench(machine)
    measured_us(never, machine, [(1.0, 1.3), (1.0, 1.5)], monkeypatch, [16])
    assert never.chunks.drift == pytest.approx(0.3), "the calmer of both, and the table says so"


def test_the_pace_is_the_middle_of_the_anchors_round_by_round() -> None:
    paces = by_round([[1.0, 1.0, 1.0, 1.2], [3.0, 3.0, 3.0, 3.6], [2.0, 9.0, 2.0, 2.4]])
    assert paces == pytest.approx([1.0, 1.0, 1.0, 1.2]) and calm(paces).tolist() == [True, True, True, False]
    restless = np.array([1.0, 1.5, 1.4, 1.6, 1.7])
    assert calm(restless).sum() == 1 and counting(restless).sum() == LEAST_ROUNDS, "the calmest there are"
    assert counting(np.array([1.0, 2.0])).all(), "too few to choose from"
    assert moved([1.0] * 5) == 0
    assert moved([1.0, 1.0, 1.0, 1.2, 1.2]) == pytest.approx(0.2)
    assert moved([1.0, 1.0, 9.0, 1.0, 1.0]) == 0, "one round is an accident"
    table = LatencyTable(profile=PROFILE, entries={}, drift=moved(restless[counting(restless)].tolist()))
    assert table.noisy and LatencyTable.from_json(table.to_json()) == table, "a chunk that was never calm"


def test_levels_tell_chunks_from_anchors() -> None:
    usual, slow = np.array([10.0, 20.0, 30.0]), np.array([1.0, 1.4, 1.04, 0.96, 1.5])
    unknown = np.full(3, np.nan)
    chunks = slow[:, None] * usual
    chunks[1] *= 1.0, 1.3, 0.9  # a slow machine is not slow alike
    found, anchors_us = levels(chunks, unknown)
    assert found == pytest.approx(slow) and anchors_us == pytest.approx(usual)
    chunks[3, 2] *= 3  # one anchor that is off does not move the pace
    assert levels(chunks, unknown)[0] == pytest.approx(slow)
    assert levels(chunks[:1], unknown)[0] == [1.0], "nothing to compare it with"
    known = np.array([5.0, np.nan, np.nan])
    found, anchors_us = levels(chunks, known)
    assert found == pytest.approx(2 * slow) and anchors_us == pytest.approx(usual / 2), "the scale of what is known"


def test_anchors_are_operators_of_all_sizes_without_a_pattern() -> None:
    sizes = range(1, 2 * NUM_ANCHORS + 1)
    requests = [
        GridRequest(signature=replace(CONV, height=n, width=n, pattern=pattern), c_ins=(8, 16, 32), c_outs=(64,))
        for n in sizes for pattern in ("", "64x1@1/2")
    ]  # fmt: skip
    chosen = anchors(requests)
    assert [signature.height for signature, _ in chosen] == list(sizes)[::-2]
    assert {point for _, point in chosen} == {(16, 64)} and not any(signature.pattern for signature, _ in chosen)
    assert len(anchors(requests[:6])) == 3, "all, where there are few"


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
