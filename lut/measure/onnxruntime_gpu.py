"""ONNX Runtime on an NVIDIA GPU, with its CUDA or its TensorRT provider: operators by difference, as TensorRT's graphs are closed.

Inputs and outputs stay on the GPU; a run ends when the GPU has ended. TensorRT tries its kernels as it loads a graph:
a table takes seconds for each of its points.
"""

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from lut.measure.hardware import gpu_profile
from lut.measure.neighbours import BetweenNeighbours
from lut.measure.runtime import Model, Run, RuntimeAbsent, onnx_of
from lut.measure.sessions import network_run, network_session
from lut.pattern import Pattern
from lut.profile import DeviceProfile
from lut.signature import OpSignature

PROVIDERS = {
    "onnxruntime_cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "onnxruntime_tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}


def make(name: str) -> "OnnxRuntimeGpu":
    """Return the runtime of that name."""
    return OnnxRuntimeGpu(name=name)


@dataclass(frozen=True, kw_only=True)
class OnnxRuntimeGpu:
    """ONNX Runtime with a GPU provider, float32."""

    name: str
    max_copies: int = 32

    def version(self) -> str:
        """Return its version."""
        try:
            import onnxruntime
        except ImportError as missing:
            raise RuntimeAbsent("ONNX Runtime is not installed: pip install onnxruntime-gpu") from missing
        first = PROVIDERS[self.name][0]
        if first not in onnxruntime.get_available_providers():
            raise RuntimeAbsent(
                f"this ONNX Runtime has no {first}: pip install onnxruntime-gpu, in place of onnxruntime"
            )
        return str(onnxruntime.__version__)

    def profile(self, threads: int, batch: int) -> DeviceProfile:
        """Return the profile of this machine's GPU."""
        return gpu_profile(self.name, self.version(), threads, batch)

    def runs(self, signature: OpSignature) -> bool:
        """Return whether the pattern can be lowered to standard operators."""
        return not signature.pattern or Pattern.parse(signature.pattern).lowerable

    def settled(self, profile: DeviceProfile) -> nullcontext[None]:
        """Every session has settings of its own."""
        return nullcontext()

    def lab(self, profile: DeviceProfile) -> "_Lab":
        """Return a lab whose operators share nothing."""
        return _Lab(runtime=self, profile=profile)

    def network_run(self, model: Model, profile: DeviceProfile) -> Run:
        """Return a run of an ONNX network; a symbolic first dimension becomes the profile's batch."""
        return network_run(onnx_of(model), profile, PROVIDERS[self.name], "cuda")

    def outputs(self, model: Model, profile: DeviceProfile, images: np.ndarray) -> np.ndarray:
        """Return the first output."""
        session = network_session(onnx_of(model), profile, PROVIDERS[self.name])
        return np.asarray(session.run(None, {session.get_inputs()[0].name: images})[0])


@dataclass(frozen=True, kw_only=True)
class _Lab:
    runtime: OnnxRuntimeGpu
    profile: DeviceProfile

    def operator(self, signature: OpSignature, c_in: int, c_out: int) -> BetweenNeighbours:
        return BetweenNeighbours(
            signature=signature, c_in=c_in, c_out=c_out, batch=self.profile.batch,
            load=lambda model: self.runtime.network_run(model, self.profile),
        )  # fmt: skip

    def clear(self) -> None:
        """Nothing is shared."""
