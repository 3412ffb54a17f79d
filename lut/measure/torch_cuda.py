"""PyTorch on an NVIDIA GPU: eager or as a CUDA graph, float32 (TF32 off) or half precision, channels-last layout.

Times are the GPU's own, between two events on the stream, after which the host waits. Eager runs hold what the host
takes to launch kernels where the GPU waits for it; CUDA graphs do not. In half precision, 2:4 weights of linear layers
and 1x1 convolutions run as semi-structured products (`lut.measure.semi_structured`).
"""

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lut.measure.hardware import gpu_profile
from lut.measure.runtime import Model, Run, RuntimeAbsent
from lut.measure.torch_eager import TorchEager, module_of, torch_version
from lut.pattern import Pattern
from lut.profile import DeviceProfile
from lut.signature import OpSignature

TWO_OF_FOUR = Pattern(n=2, m=4).id
_WARMUP = 3
"""Runs before a graph is captured: libraries choose their kernels in the first ones."""


def make(name: str) -> "TorchCuda":
    """Return the runtime of that name: `torch_cuda[_graph][_fp16]`."""
    return TorchCuda(name=name, graph="_graph" in name, dtype="fp16" if name.endswith("_fp16") else "fp32")


@dataclass(frozen=True, kw_only=True)
class TorchCuda(TorchEager):
    """PyTorch on the first GPU."""

    name: str
    graph: bool
    """Whether runs are captured into a CUDA graph and replayed."""
    dtype: str
    """`fp32` or `fp16`."""

    def version(self) -> str:
        """Return PyTorch's version and that of the CUDA it was built for."""
        found = torch_version()
        if (cuda := _cuda_version()) is None:
            raise RuntimeAbsent("this PyTorch is built without CUDA: install one of the builds on pytorch.org")
        return f"{found}, CUDA {cuda}"

    def profile(self, threads: int, batch: int) -> DeviceProfile:
        """Return the profile of this machine's GPU."""
        return gpu_profile(self.name, self.version(), threads, batch, self.dtype, "nhwc")

    def runs(self, signature: OpSignature) -> bool:
        """Return whether the pattern can be lowered, or is 2:4 on a layer that is a matrix product, in half precision."""
        if not signature.pattern or Pattern.parse(signature.pattern).lowerable:
            return True
        product = signature.kernel == (1, 1) and signature.padding == (0, 0)
        return signature.pattern == TWO_OF_FOUR and product and self.dtype == "fp16"

    @contextmanager
    def settled(self, profile: DeviceProfile) -> Iterator[None]:
        """Use the profile's threads, let cuDNN try its kernels, and compute float32 in full."""
        import torch

        backends: Any = torch.backends
        cudnn, conv, matmul = backends.cudnn, backends.cudnn.conv, backends.cuda.matmul
        before = cudnn.benchmark, conv.fp32_precision, matmul.fp32_precision
        cudnn.benchmark, conv.fp32_precision, matmul.fp32_precision = True, "ieee", "ieee"
        try:
            with super().settled(profile):
                yield
        finally:
            cudnn.benchmark, conv.fp32_precision, matmul.fp32_precision = before

    def outputs(self, model: Model, profile: DeviceProfile, images: np.ndarray) -> np.ndarray:
        """Return the output of a program's module, as float32."""
        import torch

        module, _ = module_of(model, profile)
        with torch.inference_mode(), self.settled(profile):
            result = self.placed(module)(self._there(torch.from_numpy(images)))
            return np.asarray(result.float().cpu().numpy())

    def placed(self, module: Any) -> Any:
        """Return the module on the GPU, in this runtime's precision and layout, its 2:4 weights compressed."""
        import torch

        from lut.measure.semi_structured import compress

        module = module.to("cuda", self._torch_dtype()).to(memory_format=torch.channels_last)
        compress(module)
        return module

    def call(self, modules: list[Any], inputs: list[Any]) -> Run:
        """Return a run that calls every module on the inputs, and the seconds that takes on the GPU.

        Raises ValueError where the modules cannot be captured into a graph.
        """
        import torch

        modules, inputs = [self.placed(module) for module in modules], [self._there(x) for x in inputs]

        def launch() -> None:
            with torch.inference_mode():
                kept = [module(*inputs) for module in modules]
                del kept

        return _timed(self._captured(launch) if self.graph else launch)

    def nothing(self) -> Run:
        """Return a run of next to nothing."""
        import torch

        return self.call([torch.nn.Identity()], [torch.zeros(1)])

    def _captured(self, launch: Any) -> Any:
        import torch

        side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARMUP):
                launch()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                launch()
        except RuntimeError as error:
            raise ValueError(f"the network cannot be captured into a CUDA graph: {error}") from error

        def replay(kept: Any = launch) -> None:
            """Replay; the graph reads tensors that `launch` alone keeps."""
            graph.replay()

        return replay

    def _there(self, x: Any) -> Any:
        import torch

        x = x.to("cuda", self._torch_dtype())
        return x.to(memory_format=torch.channels_last) if x.ndim == 4 else x

    def _torch_dtype(self) -> Any:
        import torch

        return torch.float16 if self.dtype == "fp16" else torch.float32


def _cuda_version() -> str | None:
    """Return the CUDA version of the installed PyTorch from its version file: PyTorch is not loaded for it."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    found = re.search(r"^cuda\b[^=]*= '([^']+)'", text, re.MULTILINE)
    return found[1] if found else None


def _timed(launch: Any) -> Run:
    """Return a run that waits for the GPU and returns the seconds between two events around `launch`."""
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]

    def run() -> float:
        start.record()
        launch()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    return run
