"""OpenVINO on CPU, in float32: operators by difference (`lut.measure.neighbours`), as it gives no optimised graph back.

Its per-node counters count whole microseconds of each run, too few for small operators.
"""

import importlib
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from lut.measure.arrays import random_array
from lut.measure.hardware import cpu_profile
from lut.measure.neighbours import BetweenNeighbours
from lut.measure.runtime import Model, Run, RuntimeAbsent, onnx_of
from lut.pattern import Pattern
from lut.profile import DeviceProfile
from lut.signature import OpSignature

NAME = "openvino"


def make(name: str) -> "OpenVino":
    """Return the runtime."""
    return OpenVino()


@dataclass(frozen=True, kw_only=True)
class OpenVino:
    """OpenVINO's CPU plugin."""

    name: str = NAME
    max_copies: int = 32

    def version(self) -> str:
        """Return its version."""
        try:
            return version("openvino")
        except PackageNotFoundError as missing:
            raise RuntimeAbsent("OpenVINO is not installed: pip install 'secateur[openvino]'") from missing

    def profile(self, threads: int, batch: int) -> DeviceProfile:
        """Return the profile of this machine's CPU."""
        return cpu_profile(self.name, self.version(), threads, batch)

    def runs(self, signature: OpSignature) -> bool:
        """Return whether the pattern can be lowered to standard operators."""
        return not signature.pattern or Pattern.parse(signature.pattern).lowerable

    def settled(self, profile: DeviceProfile) -> nullcontext[None]:
        """Every compiled network has threads of its own."""
        return nullcontext()

    def lab(self, profile: DeviceProfile) -> "_Lab":
        """Return a lab whose operators share nothing."""
        return _Lab(profile=profile)

    def network_run(self, model: Model, profile: DeviceProfile) -> Run:
        """Return a run of an ONNX network whose inputs are of fixed size and the profile's batch."""
        return _run(onnx_of(model), profile, is_network=True)

    def outputs(self, model: Model, profile: DeviceProfile, images: np.ndarray) -> np.ndarray:
        """Return the first output."""
        return np.array(_compiled(onnx_of(model), profile.threads)([images])[0])


@dataclass(frozen=True, kw_only=True)
class _Lab:
    profile: DeviceProfile

    def operator(self, signature: OpSignature, c_in: int, c_out: int) -> BetweenNeighbours:
        return BetweenNeighbours(
            signature=signature, c_in=c_in, c_out=c_out, batch=self.profile.batch,
            load=lambda model: _run(model, self.profile),
        )  # fmt: skip

    def clear(self) -> None:
        """Nothing is shared."""


def _run(model: bytes | Path, profile: DeviceProfile, *, is_network: bool = False) -> Run:
    compiled = _compiled(model, profile.threads)
    request = compiled.create_infer_request()
    for position, value in enumerate(compiled.inputs):
        shape = tuple(value.get_shape())
        if is_network and shape[:1] != (profile.batch,):
            raise ValueError(f"input {value.get_any_name()} is {list(shape)}, the profile has batch {profile.batch}")
        # Never negative, as after a ReLU.
        request.set_input_tensor(position, _openvino().Tensor(np.abs(random_array(shape, offset=position))))

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
    return importlib.import_module("openvino")
