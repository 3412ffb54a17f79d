"""Latencies of whole networks in OpenVINO on CPU, where it is installed: what `lut.measure.onnxruntime` says of its own
runtime.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lut.measure.onnx_ops import random_array
from lut.measure.onnxruntime import local_profile as onnxruntime_profile
from lut.measure.timing import Timed, Timing, interleave
from lut.profile import DeviceProfile

RUNTIME = "openvino"


class RuntimeAbsent(RuntimeError):
    """OpenVINO is not installed here."""


def local_profile(threads: int, batch: int) -> DeviceProfile:
    """Return the profile of this machine's CPU under the installed OpenVINO.

    Raises ValueError for threads or batch below 1, RuntimeAbsent where there is no OpenVINO.
    """
    here = onnxruntime_profile(threads, batch)
    return replace(here, runtime=RUNTIME, runtime_version=str(_openvino().__version__).partition("-")[0])


def measure_models(
    models: Sequence[bytes | Path],
    profile: DeviceProfile,
    *,
    min_seconds: float = 1.0,
    rounds: int = 10,
    min_runs: int = 3,
) -> list[Timing]:
    """Return the latency of whole ONNX networks in float32, timed in turns in this one process.

    Every network is run for at least `min_seconds` in total and `rounds * min_runs` times, on fixed random inputs.
    Raises ValueError for a network that cannot be loaded or has inputs of open size, or when this machine is not
    `profile`'s; RuntimeAbsent where there is no OpenVINO.
    """
    if profile != (here := local_profile(profile.threads, profile.batch)):
        raise ValueError(f"this machine measures for {here}, not for {profile}")
    timed = [Timed(_run(model, profile.threads), profile.threads) for model in models]
    for one in timed:
        one.quick_s(5)
    interleave(timed, rounds=rounds, slice_s=min_seconds / rounds, min_runs=min_runs)
    return [one.timing() for one in timed]


def outputs(model: bytes | Path, threads: int, feeds: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return what the network computes in float32 on `feeds`, one array for each input. Errors as `measure_models`."""
    results = _compiled(model, threads)(list(feeds))
    return [np.array(value) for value in results.values()]


def _run(model: bytes | Path, threads: int) -> Callable[[], None]:
    compiled = _compiled(model, threads)
    request = compiled.create_infer_request()
    for position, value in enumerate(compiled.inputs):
        # Never negative, as after a ReLU.
        array = np.abs(random_array(tuple(value.get_shape()), offset=position))
        request.set_input_tensor(position, _openvino().Tensor(array))

    def run() -> None:
        request.infer()

    return run


def _compiled(model: bytes | Path, threads: int) -> Any:
    core = _openvino().Core()
    # Left to itself it computes in bfloat16 where the CPU can.
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    try:
        read = core.read_model(model) if isinstance(model, bytes) else core.read_model(str(model))
        if read.is_dynamic():
            raise ValueError("its inputs are of open size")
        return core.compile_model(read, "CPU", options)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"OpenVINO cannot load the network: {error}") from error


def _openvino() -> Any:
    try:
        return importlib.import_module("openvino")
    except ImportError as missing:
        raise RuntimeAbsent("OpenVINO is not installed: pip install 'secateur[openvino]'") from missing
