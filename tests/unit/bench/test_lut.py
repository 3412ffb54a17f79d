"""The bench of latency tables: plans keep to the table's word, summaries say what rows say, absent runtimes say so."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench import lut
from bench._judged import Case, case, plans, variants
from bench.lut import _lines, _summary, main
from lut.measure.runtime import available
from lut.profile import DeviceProfile
from lut.request import num_macs
from lut.table import Entry, LatencyTable
from pruning.tables import grid_requests, width_choices

PROFILE = DeviceProfile(hardware="test", runtime="none", runtime_version="0", threads=1, batch=1)


@pytest.fixture(scope="module")
def judged() -> tuple[Case, LatencyTable]:
    """A network, and a device that takes a microsecond for a thousand multiply-accumulates."""
    here = case("cifar/resnet20-a", PROFILE)
    empty = LatencyTable(profile=PROFILE, entries={}, step=8)
    requests = grid_requests(
        here.costs, width_choices(here.groups, empty), patterns=dict.fromkeys(here.modules, here.patterns)
    )
    entries = {
        r.signature: {
            pair: Entry(p50_us=us, p90_us=us, num_samples=1)
            for pair in r.pairs()
            for us in [1.0 + num_macs(r.signature, *pair) / 1e3]
        }
        for r in requests
    }
    return here, LatencyTable(profile=PROFILE, entries=entries, step=8)


def test_plans_are_told_within_their_budgets_and_some_are_masked(judged: tuple[Case, LatencyTable]) -> None:
    here, table = judged
    dense_us = here.sum_us(table, here.itself())
    found = list(plans(here, table, 4, seed=0))
    assert [one.variant for one in found] == ["0.30", "0.52+patterns", "0.73", "0.95"]
    for one in found:
        assert one.told_us is not None and one.told_us <= float(one.variant[:4]) * dense_us * 1.01
        # What no list reads is not computed, so a network as built is at most what the solver was told.
        assert here.sum_us(table, one) <= one.told_us * (1 + 1e-6)
        if not one.patterns:
            assert here.sum_us(table, one) == pytest.approx(one.told_us, rel=1e-3)
    assert any(one.patterns for one in found)


def test_variants_come_with_what_they_were_made_of(judged: tuple[Case, LatencyTable]) -> None:
    here, table = judged
    found = list(variants(here, table, masked_every=2, num=3, seed=0))
    assert [bool(one.patterns) for one in found] == [False, True, False]
    assert [one.kind for one in found] == ["slimmed", "masked", "slimmed"]
    assert all(one.kind == "masked" for one in variants(here, table, masked_every=1, num=3, seed=0))
    assert not any(one.patterns for one in variants(here, table, masked_every=0, num=3, seed=0))
    assert all(here.sum_us(table, one) < here.sum_us(table, here.itself()) for one in found)
    assert all(one.macs < here.itself().macs for one in found)


def test_a_summary_counts_what_lies_within_a_tenth() -> None:
    where = {"network": "n", "runtime": "r", "threads": 1, "batch": 8, "kind": "plan", "predictor": "macs"}
    figures = [(1.0, 1.0, 0.01), (2.1, 2.0, 0.02), (3.6, 3.0, 0.04), (4.0, 4.0, 0.2)]
    rows = [{**where, "predicted_ms": p, "measured_ms": m, "error": p / m - 1, "spread": s} for p, m, s in figures]
    (line,) = _lines(rows)
    assert line == "| n | r | 1 | 8 | plan | macs | 4 | 2.50% | 20.0% | 75.0% | 1.000 | 3.0% |"


def test_random_networks_are_summed_up_together_and_ranks_are_of_one_table() -> None:
    def row(batch: int, kind: str, predicted_ms: float, measured_ms: float) -> dict[str, Any]:
        where = {"network": "n", "runtime": "r", "threads": 1, "batch": batch, "predictor": "sum", "spread": 0.01}
        error = predicted_ms / measured_ms - 1
        return {**where, "kind": kind, "predicted_ms": predicted_ms, "measured_ms": measured_ms, "error": error}

    rows = [
        row(1, "slimmed", 1.0, 1.0),
        row(1, "masked", 2.1, 2.0),
        row(8, "slimmed", 30.0, 20.0),
        row(8, "plan", 20.0, 30.0),
    ]
    figures = {line.split(" | ")[1]: line.split(" | ")[3:8] for line in _summary("| all |", rows)}
    assert figures == {
        "slimmed": ["2", "25.00%", "50.0%", "50.0%", "0.000"],
        "masked": ["1", "5.00%", "5.0%", "100.0%", "0.000"],
        "slimmed + masked": ["3", "5.00%", "50.0%", "66.7%", "0.000"],
        "plan": ["1", "33.33%", "33.3%", "0.0%", "0.000"],
    }


@pytest.mark.skipif(any(one.name == "torch_cuda" and one.version for one in available()), reason="there is a GPU here")
def test_a_runtime_that_is_absent_has_a_row_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--networks", "cifar/resnet20-a", "--runtimes", "torch_cuda", "--batches", "1", "--threads", "1"]
    assert main([*arguments, "--json"]) == 0
    (row,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert row["num_measurements"] is None and row["reason"]


def test_where_the_machine_was_restless_tables_and_networks_are_measured_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(lut, "MOVED", -1.0)
    monkeypatch.setattr(lut, "TRIES", 2)
    monkeypatch.setattr("lut.table.NOISY", -1.0)
    monkeypatch.setattr("pruning.calibration.DOUBTFUL", -1.0)
    where = ["--networks", "cifar/resnet20-a", "--runtimes", "onnxruntime", "--batches", "1", "--threads", "1"]
    few = ["--variants", "1", "--plans", "1", "--seconds", "0.02", "--loads", "1", "--patterns", "64x1@1/2"]
    kept = tmp_path / "not" / "there"
    assert main([*where, *few, "--json", "--tables", str(kept)]) == 0
    assert len(list(kept.iterdir())) == 1
    told = capsys.readouterr()
    assert told.err.count("the table is measured once more") == 1
    moved = [float(one) for one in re.findall(r"pace moved by (-?[\d.]+)%", told.err)]
    assert len(moved) == 2
    rows = [json.loads(line) for line in told.out.splitlines()]
    (drift,) = (row["drift"] for row in rows if row["kind"] == "calibration")
    assert abs(drift - 1) == pytest.approx(min(map(abs, moved)) / 100, abs=6e-4), "the steadiest try counts"
    assert [row["kind"] for row in rows if "predictor" not in row] == ["table", "calibration"]
    assert sum(row.get("predictor") == "secateur" for row in rows) == 2, "of one try alone"
