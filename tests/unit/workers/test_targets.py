"""The devices of a job, each measured in the runtime it names."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lut.measure.networks import measure_models
from lut.measure.runtime import Program, available, runtime
from lut.measure.timing import Timing
from lut.table import LatencyTable
from pruning.export import to_onnx
from tests.builders import network
from workers.context import StepContext, StepProblem
from workers.steps.gauge import gauge
from workers.steps.meter import Here
from workers.steps.targets import dense_program, targets

HERE = [one.name for one in available() if one.version is not None and one.name != "torch_compile"]


def context(folder: Path, **more: Any) -> StepContext:
    budget = {"device": "local", "budget_ms": None, "budget_ratio": 0.5}
    profiles = [asdict(runtime(name).profile(1, 1)) for name in HERE]
    spec = {
        "job": {**budget, "also": [budget] * (len(HERE) - 1)},
        "profile": profiles[0],
        "also": [{"profile": profile, "here": True} for profile in profiles[1:]],
        **more,
    }
    return StepContext(workdir=folder, cache=folder, spec=spec, seed=0, attempt=1, emit=lambda event: None)


def test_one_network_is_measured_in_the_runtime_of_each_target(tmp_path: Path) -> None:
    dense, here = network("Residual"), context(tmp_path)
    found = targets(here)
    assert [target.profile.runtime for target in found] == HERE
    for target in found:
        program = dense_program(here, dense, target)
        (timing,) = measure_models([program], target.profile, min_seconds=0.01, rounds=2)
        assert timing.p50_ms > 0


def test_candidates_are_put_on_the_scale_of_the_dense_network(tmp_path: Path) -> None:
    dense, here = network("Residual"), context(tmp_path)
    threads = torch.get_num_threads()
    for target in targets(here)[-1:]:
        table = LatencyTable(profile=target.profile, entries={})
        measured = {"p50_ms": 1.0, "budget_ms": 0.5}
        one = gauge(target, table, dense_program(here, dense, target), measured, predicted_ms=2.0)
        assert one.table.scale == pytest.approx(0.5)
        assert 0.2 < one.measure(dense, tmp_path / "candidate.onnx", times=1).p50_ms < 5
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("times", "slim_ms", "counts_ms", "num_measured"),
    [
        (1, [5.0], 5.0, 1),
        (2, [5.0, 5.1], 5.1, 2),
        (2, [5.0, 5.4, 5.3], 5.4, 3),
        (2, [5.4, 5.0, 5.1, 5.0], 5.4, 4),
        (2, [5.0, 5.2, 5.4, 5.6], 5.6, 4),
    ],
)
def test_the_slowest_measurement_counts_and_is_confirmed(
    tmp_path: Path, times: int, slim_ms: list[float], counts_ms: float, num_measured: int
) -> None:
    dense, here = network("Residual"), context(tmp_path)
    target, left = targets(here)[0], list(slim_ms)

    class Scripted(Here):
        """Says what the test says."""

        def networks(self, networks: Sequence[Program], *, share: float = 1.0) -> list[Timing]:
            more = {"num_samples": 1, "samples_ms": (), "num_disturbed": 0, "busy": False, "noise": 0.0}
            return [Timing(p50_ms=one, p90_ms=one, **more) for one in (10.0, left.pop(0))]  # type: ignore[arg-type]

    target = replace(target, meter=Scripted(profile=target.profile, seconds=0.01))
    table = LatencyTable(profile=target.profile, entries={})
    measured = {"p50_ms": 10.0, "budget_ms": 5.0}
    one = gauge(target, table, dense_program(here, dense, target), measured, predicted_ms=10.0)
    assert one.measure(dense, tmp_path / "candidate.onnx", times).p50_ms == pytest.approx(counts_ms)
    assert len(slim_ms) - len(left) == num_measured


def test_a_runtime_that_is_absent_ends_the_job_with_its_sentence(tmp_path: Path) -> None:
    with pytest.raises(StepProblem, match="install it") as raised:
        targets(context(tmp_path, absent=["openvino cannot run here: install it."]))
    assert raised.value.code == "runtime_absent"


def test_the_batch_of_a_target_is_that_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "two.onnx"
    to_onnx(network("Chain"), path, batch=2)
    with pytest.raises(ValueError, match="batch"):
        runtime("onnxruntime").network_run(path, runtime("onnxruntime").profile(1, 1))
