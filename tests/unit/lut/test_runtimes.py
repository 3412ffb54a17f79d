"""The contract of a runtime, held by every one there is here; one that is not here says what it lacks."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lut.measure import hardware, torch_compile, torch_eager
from lut.measure.arrays import random_array
from lut.measure.networks import measure_models
from lut.measure.onnx_ops import bare_model
from lut.measure.runtime import FILES, Program, Runtime, RuntimeAbsent, available, runtime
from lut.measure.tables import measure_points, measure_table
from lut.measure.torch_ops import operator_module
from lut.request import GridRequest
from lut.signature import OpSignature
from lut.table import LatencyTable

HERE = [one.name for one in available() if one.version is not None]
CONV = OpSignature(kind="conv", height=14, width=14, kernel=(3, 3), padding=(1, 1), activation="relu")
LOWERED = replace(CONV, pattern="16x1@1/4")


@pytest.fixture(params=HERE)
def one(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    yield runtime(request.param)


def network(channels: int, batch: int = 1) -> Program:
    """Return a convolution of 3 inputs as a whole network, the same numbers in either form."""
    stem = replace(CONV, bias=False)
    model = bare_model(stem, 3, channels, batch)

    def module() -> nn.Module:
        made = operator_module(stem, 3, channels)
        for parameter, tensor in zip(made.parameters(), model.graph.initializer, strict=True):
            parameter.data = torch.frombuffer(bytearray(tensor.raw_data), dtype=torch.float32).reshape(parameter.shape)
        return made

    return Program(onnx=model.SerializeToString(), module=module, input_shape=(3, 14, 14))


def test_at_least_the_two_that_need_nothing_else_are_here() -> None:
    assert {"onnxruntime", "torch_eager"} <= set(HERE)


def test_operators_take_time_and_more_work_takes_more(one: Runtime) -> None:
    points = [(CONV, 16, 16), (replace(LOWERED, residual=True), 128, 128)]
    table = measure_points(one.profile(1, 1), points)
    small, large = (table.latency_us(*point) for point in points)
    assert 0 < small < large


def test_a_grid_becomes_a_table(one: Runtime) -> None:
    request = GridRequest(signature=OpSignature(kind="linear", height=1, width=1), c_ins=(16, 32), c_outs=(16,))
    profile = one.profile(1, 1)
    table = measure_table(profile, [request], LatencyTable(profile=profile, entries={}, step=16))
    assert not table.missing([request]) and table.profile.runtime == one.name
    assert all(entry.num_samples >= 5 for points in table.entries.values() for entry in points.values())


def test_whole_networks_are_timed_in_turns(one: Runtime) -> None:
    small, large = measure_models([network(4), network(256)], one.profile(1, 1), min_seconds=0.02, rounds=3, min_runs=3)
    assert small.num_samples >= 9 and 0 < small.p50_ms <= small.p90_ms
    assert large.p50_ms > small.p50_ms


def test_outputs_are_the_same_numbers_everywhere(one: Runtime) -> None:
    images, profile = random_array((1, 3, 14, 14)), one.profile(1, 1)
    expected = runtime("onnxruntime").outputs(network(8), runtime("onnxruntime").profile(1, 1), images)
    assert np.abs(one.outputs(network(8), profile, images) - expected).max() < (
        1e-4 if profile.dtype == "fp32" else 0.05
    )


def test_threads_of_the_process_are_as_before(one: Runtime) -> None:
    before = torch.get_num_threads()
    with one.settled(one.profile(before + 1, 1)):
        pass
    assert torch.get_num_threads() == before


def test_no_two_profiles_share_a_table(one: Runtime) -> None:
    others = [runtime(name).profile(1, 1) for name in HERE if name != one.name]
    profiles = [one.profile(1, 1), one.profile(2, 1), one.profile(1, 2), *others]
    assert len({profile.fingerprint for profile in profiles}) == len(profiles)
    with pytest.raises(ValueError, match="at least 1"):
        one.profile(0, 1)
    with pytest.raises(ValueError, match="this machine measures for"):
        measure_models([], replace(one.profile(1, 1), hardware="another"))


@pytest.mark.parametrize("name", [name for name in FILES if name not in HERE])
def test_an_absent_runtime_says_what_it_lacks(name: str) -> None:
    with pytest.raises(RuntimeAbsent, match=r"install|no NVIDIA GPU"):
        runtime(name).profile(1, 1)
    assert next(found for found in available() if found.name == name).reason


def test_a_name_that_there_is_not_names_those_there_are() -> None:
    with pytest.raises(RuntimeAbsent, match="there are onnxruntime, openvino"):
        runtime("abacus")


def test_pytorch_wants_a_module() -> None:
    one = runtime("torch_eager")
    with pytest.raises(ValueError, match="ONNX file alone"):
        one.network_run(network(4).onnx, one.profile(1, 1))


def test_missing_packages_compilers_and_gpus_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    torch_compile._compiler.cache_clear()
    with pytest.raises(RuntimeAbsent, match="no-such-compiler is not found"):
        runtime("torch_compile").version()
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(RuntimeAbsent, match="cannot compile"):
        runtime("torch_compile").version()
    torch_compile._compiler.cache_clear()

    def nothing(name: str) -> str:
        raise torch_eager.PackageNotFoundError(name)

    monkeypatch.setattr(torch_eager, "version", nothing)
    with pytest.raises(RuntimeAbsent, match="pip install torch"):
        runtime("torch_eager").version()


def test_a_gpu_is_named_with_its_power_limit_and_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA L4, 72.00 W, 580.1'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    profile = hardware.gpu_profile("torch_cuda", "2.0, CUDA 13.2", 1, 1, "fp16")
    assert (profile.hardware, profile.dtype) == ("NVIDIA L4, 72.00 W", "fp16")
    assert profile.runtime_version == "2.0, CUDA 13.2, driver 580.1"
    tool.write_text("#!/bin/sh\nexit 9\n")
    with pytest.raises(RuntimeAbsent, match="names no NVIDIA GPU"):
        hardware.gpu_name()


def test_profiles_are_made_without_loading_pytorch() -> None:
    code = (
        "import sys; from lut.measure.runtime import available; available(); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'openvino')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
