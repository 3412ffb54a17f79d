"""PyTorch on CPU through `torch.compile`, weights frozen into the program, in float32 and channels-last layout.

Everything is compiled before it is timed, about a second each: the table of a network takes many minutes.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from lut.measure.hardware import cpu_profile
from lut.measure.runtime import Model, Run, RuntimeAbsent
from lut.measure.torch_eager import TorchEager, module_of, torch_version
from lut.profile import DeviceProfile

NAME = "torch_compile"
_TRIAL = "#include <cmath>\n#include <omp.h>\nint main() { return omp_get_max_threads() > 0 ? 0 : 1; }\n"
_TRIAL_TIMEOUT_S = 60


def make(name: str) -> "TorchCompile":
    """Return the runtime."""
    return TorchCompile()


@cache
def _compiler() -> str:
    """Return the C++ compiler that Inductor would call; found and tried once. Raises RuntimeAbsent."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise RuntimeAbsent(
            f"torch.compile needs a C++ compiler, and {compiler} is not found: apt-get install g++, or set CXX"
        )
    try:
        subprocess.run(
            [compiler, "-x", "c++", "-", "-fopenmp", "-o", os.devnull],
            input=_TRIAL, text=True, capture_output=True, check=True, timeout=_TRIAL_TIMEOUT_S,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise RuntimeAbsent(f"{compiler} cannot compile a C++ program with OpenMP: {error}") from error
    return compiler


@dataclass(frozen=True, kw_only=True)
class TorchCompile(TorchEager):
    """`torch.compile` on CPU."""

    name: str = NAME
    max_copies: int = 4
    """Compiling takes as long as the program is."""

    def version(self) -> str:
        """Return PyTorch's version where it finds a compiler."""
        found = torch_version()
        _compiler()
        return found

    def profile(self, threads: int, batch: int) -> DeviceProfile:
        """Return the profile of this machine's CPU."""
        return cpu_profile(self.name, self.version(), threads, batch, layout="nhwc")

    def outputs(self, model: Model, profile: DeviceProfile, images: np.ndarray) -> np.ndarray:
        """Return the output of a program's module, compiled."""
        import torch

        module, _ = module_of(model, profile)
        with torch.inference_mode(), self.settled(profile):
            (result,) = _compiled([module])(torch.from_numpy(images))
            return np.asarray(result.numpy())

    def call(self, modules: list[Any], inputs: list[Any]) -> Run:
        """Return a run of one compiled program that calls every module on the inputs."""
        import torch

        compiled = _compiled(modules)
        inputs = [x.to(memory_format=torch.channels_last) if x.ndim == 4 else x for x in inputs]

        def run() -> None:
            with torch.inference_mode():
                compiled(*inputs)

        run()  # compiles
        return run

    def nothing(self) -> Run:
        """Return a run of a compiled program that does next to nothing."""
        import torch

        return self.call([torch.nn.ReLU()], [torch.zeros(1)])


def _compiled(modules: list[Any]) -> Any:
    """Return a compiled function of the modules' inputs that returns all their results.

    Its code is its own: PyTorch counts how often one code object is compiled, and leaves off after a few times.
    """
    import torch
    from torch import fx

    root = torch.nn.ModuleDict({str(number): module for number, module in enumerate(modules)})
    graph = fx.Graph()
    names = _operand_names(modules[0])
    inputs = [graph.placeholder(name) for name in names]
    graph.output(tuple(graph.call_module(number, tuple(inputs)) for number in root))
    program = fx.GraphModule(root, graph).eval()
    return torch.compile(program, dynamic=False, fullgraph=True, options={"freezing": True})


def _operand_names(module: Any) -> list[str]:
    import inspect

    return list(inspect.signature(module.forward).parameters)
