"""A table build measures what a network needs, says how long that takes, and goes on from its checkpoint; a job builds several."""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lut.measure.runtime import runtime
from lut.table import LatencyTable
from pruning import calibration
from pruning.calibration import NUM_NETWORKS
from pruning.export import to_onnx
from pruning.trace import trace
from workers.context import OUTBOX, StepContext
from workers.steps import build_table, extend, profile
from workers.steps.extend import MEASURED
from workers.view import BUILD_DEFAULTS, DEFAULTS

torch.set_num_threads(1)
PROFILE = runtime("onnxruntime").profile(threads=1, batch=1)


@pytest.fixture(autouse=True)
def _calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is slow enough to be timed once more: until that is known, a share may look larger than it is."""
    monkeypatch.setattr("lut.measure.chunks.CALM", math.inf)
    monkeypatch.setattr("lut.measure.turns.MOST_LOADS", 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of two layers as ONNX."""
    net = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )  # fmt: skip
    path = tmp_path_factory.mktemp("onnx") / "model"
    to_onnx(trace(net.eval(), (3, 8, 8)), path, batch=1)
    return path


def context(folder: Path, model: Path, events: list[Mapping[str, Any]]) -> StepContext:
    folder.mkdir(exist_ok=True)
    (folder / "model").write_bytes(model.read_bytes())
    job = {**BUILD_DEFAULTS, "image_size": 8}
    spec = {
        "job": job, "model": {"arch": "onnx"}, "dataset": {"image_size": 8}, "profile": asdict(PROFILE), "also": [],
        "absent": [], "limits": {}, "results": {},
    }  # fmt: skip
    return StepContext(workdir=folder, cache=folder, spec=spec, seed=0, attempt=1, emit=events.append)


def test_a_build_leaves_a_table_and_a_killed_one_goes_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_table, "KEEP_EVERY_S", 0.0)
    events: list[Mapping[str, Any]] = []
    result = build_table.run(context(tmp_path / "one", model, events))
    table = LatencyTable.load(tmp_path / "one" / "table.json")
    (described,) = result["luts"]
    assert described == {"file": "table.json", "device": "local", **table.figures()}
    assert result["summary"]["num_entries_measured"] == table.num_entries > 5
    assert table.scale != 1.0 and 0 <= table.residual < 0.5, "it is calibrated on whole networks"
    left = [event["seconds_left"] for event in events if event.get("seconds_left") is not None]
    assert left and left[-1] == 0 and min(left) >= 0
    done = [event["fraction"] for event in events if event["event"] == "progress"]
    assert done == sorted(done) and done[-1] == 1.0
    assert len([share for share in done if share > MEASURED]) > NUM_NETWORKS, "calibrating tells how far it is, too"
    kept = [event for event in events if event["event"] == "checkpoint"]
    assert {event["name"] for event in kept} == {build_table.BEGUN}

    begun = tmp_path / "one" / OUTBOX / kept[0]["file"]
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / build_table.BEGUN).write_bytes(begun.read_bytes())
    build_table.run(context(tmp_path / "two", model, []))
    again = LatencyTable.load(tmp_path / "two" / "table.json")
    before = LatencyTable.load(begun)
    assert before.num_entries > 0 and before.step == again.step
    for signature, points in before.entries.items():
        assert points.items() <= again.entries[signature].items()

    (tmp_path / "three").mkdir()
    table.save(tmp_path / "three" / "known_table.json")
    known = build_table.run(context(tmp_path / "three", model, []))
    assert known["num_new"] == 0
    assert (tmp_path / "three" / "table.json").read_bytes() == (tmp_path / "one" / "table.json").read_bytes()


def test_a_doubtful_table_is_measured_once_more_and_the_better_one_counts(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[LatencyTable] = []

    def doubtful(table: LatencyTable) -> bool:
        seen.append(table)
        return calibration.doubtful(table)

    monkeypatch.setattr(extend, "doubtful", doubtful)
    monkeypatch.setattr("lut.table.NOISY", -1.0)
    monkeypatch.setattr(calibration, "DOUBTFUL", -1.0)
    events: list[Mapping[str, Any]] = []
    build_table.run(context(tmp_path / "one", model, events))
    table, (first,) = LatencyTable.load(tmp_path / "one" / "table.json"), seen
    assert table.residual <= first.residual and table.seconds > first.seconds
    assert {one: set(points) for one, points in table.entries.items()} == {
        one: set(points) for one, points in first.entries.items()
    }
    assert any("measured once more" in event.get("text", "") for event in events)
    assert [event["code"] for event in events if event["event"] == "warning"] == ["table_noisy"], "told once"
    done = [event["fraction"] for event in events if event["event"] == "progress"]
    assert done == sorted(done) and done[-1] == 1.0


def test_a_jobs_devices_share_the_progress_of_its_tables(model: Path, tmp_path: Path) -> None:
    events: list[Mapping[str, Any]] = []
    step = context(tmp_path / "job", model, events)
    budget = {"device": "local", "budget_ms": 1.0, "budget_ratio": None}
    job = {**DEFAULTS, **budget, "patterns": "none", "also": [budget]}
    also = [{"profile": asdict(replace(PROFILE, batch=2)), "here": True}]
    step.spec.update(job=job, also=also, results={"prepare": {"rows": [0, 1]}})
    result = profile.run(step)
    first, second = (LatencyTable.load(tmp_path / "job" / described["file"]) for described in result["luts"])
    assert (first.profile.batch, second.profile.batch) == (1, 2)
    assert result["num_new"] == first.num_entries + second.num_entries
    done = [event["fraction"] for event in events if event["event"] == "progress"]
    assert done == sorted(done) and done[-1] == 1.0
    for start, end in ((0.0, 0.5), (0.5, 1.0)):
        calibrating = [share for share in done if start + MEASURED * (end - start) < share <= end]
        assert len(calibrating) > NUM_NETWORKS
