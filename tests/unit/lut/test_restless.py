"""A machine that is restless while it is measured: what is measured again, and what a table says about it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lut.measure import bench as module
from lut.measure.bench import MAX_AGAIN, Bench, moved
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

    def lab(self, profile: DeviceProfile, folder: Path, weights: Path) -> "Machine":
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


def bench(machine: Machine, folder: Path) -> Bench:
    """A bench on that machine."""
    return Bench(machine, PROFILE, folder, [GridRequest(signature=CONV, c_ins=(8,), c_outs=(8,))])  # type: ignore[arg-type]


def measured_us(made: Bench, machine: Machine, factors: list[float], monkeypatch: pytest.MonkeyPatch) -> float:
    """Measure one chunk whose successive measurements run at `factors`; return the entry, in microseconds."""
    waiting, real = iter(factors), module.interleave

    def interleave(*args: Any, **kwargs: Any) -> None:
        machine.factor = next(waiting)
        real(*args, **kwargs)

    monkeypatch.setattr(module, "interleave", interleave)
    entry = made.measure([(CONV, (8, 8))], silent)[CONV][8, 8]
    monkeypatch.setattr(module, "interleave", real)
    assert next(waiting, None) is None, "measured as often as there are factors"
    return entry.p50_us


def test_a_chunk_whose_reference_moved_is_measured_again_and_the_calmer_one_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine()
    made = bench(machine, tmp_path)
    assert measured_us(made, machine, [1.0], monkeypatch) == pytest.approx(1000)
    assert measured_us(made, machine, [1.04], monkeypatch) == pytest.approx(1040), "not enough to matter"
    assert measured_us(made, machine, [1.3, 1.01], monkeypatch) == pytest.approx(1010)
    assert measured_us(made, machine, [1.1, 1.5], monkeypatch) == pytest.approx(1100)
    assert made.drift == pytest.approx(0.1)
    table = LatencyTable(profile=PROFILE, entries={}, noise=made.noise, drift=made.drift)
    assert table.noisy and LatencyTable.from_json(table.to_json()) == table


def test_a_machine_that_stays_restless_does_not_take_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    made = bench(machine, tmp_path)
    measured_us(made, machine, [1.0], monkeypatch)
    for _ in range(MAX_AGAIN):
        measured_us(made, machine, [1.5, 1.5], monkeypatch)
    measured_us(made, machine, [1.5], monkeypatch)


def test_a_move_is_seen_inside_a_chunk_and_between_chunks() -> None:
    assert moved([1.0] * 5) == 0
    assert moved([1.0, 1.0, 1.0, 1.2, 1.2]) == pytest.approx(0.2)
    assert moved([1.0, 1.0, 9.0, 1.0, 1.0]) == 0, "one round is an accident"
    assert moved([1.1] * 5, usual_s=1.0) == pytest.approx(0.1)


def test_a_calm_table_is_not_noisy_and_says_nothing_of_drift() -> None:
    table = LatencyTable(profile=PROFILE, entries={}, noise=0.02)
    assert not table.noisy and "drift" not in table.to_json()
