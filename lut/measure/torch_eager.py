"""PyTorch on CPU as it is: one call after another, in float32. PyTorch is loaded when something is run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from lut.measure.arrays import random_array
from lut.measure.hardware import cpu_profile
from lut.measure.runtime import Model, Program, Run, RuntimeAbsent
from lut.pattern import Pattern
from lut.profile import DeviceProfile
from lut.request import num_weights
from lut.signature import OpSignature

NAME = "torch_eager"


def make(name: str) -> "TorchEager":
    """Return the runtime."""
    return TorchEager()


def torch_version() -> str:
    """Return the installed version without loading PyTorch. Raises RuntimeAbsent."""
    try:
        return version("torch")
    except PackageNotFoundError as missing:
        raise RuntimeAbsent("PyTorch is not installed: pip install torch") from missing


def module_of(model: Model, profile: DeviceProfile) -> tuple[Any, tuple[int, ...]]:
    """Return a program's module and the shape of its input. Raises ValueError for a model that is ONNX alone."""
    if not isinstance(model, Program) or model.module is None:
        raise ValueError("PyTorch runs modules, and of this network there is an ONNX file alone")
    return model.module(), (profile.batch, *model.input_shape)


@dataclass(frozen=True, kw_only=True)
class TorchEager:
    """PyTorch's eager mode on CPU."""

    name: str = NAME
    max_copies: int = 64

    def version(self) -> str:
        """Return PyTorch's version."""
        return torch_version()

    def profile(self, threads: int, batch: int) -> DeviceProfile:
        """Return the profile of this machine's CPU."""
        return cpu_profile(self.name, self.version(), threads, batch)

    def runs(self, signature: OpSignature) -> bool:
        """Return whether the pattern can be lowered to standard operators."""
        return not signature.pattern or Pattern.parse(signature.pattern).lowerable

    @contextmanager
    def settled(self, profile: DeviceProfile) -> Iterator[None]:
        """PyTorch has one number of threads for the whole process."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(profile.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def lab(self, profile: DeviceProfile) -> "Lab":
        """Return a lab whose operators share nothing."""
        return Lab(runtime=self, profile=profile)

    def network_run(self, model: Model, profile: DeviceProfile) -> Run:
        """Return a run of a program's module."""
        import torch

        module, shape = module_of(model, profile)
        return self.call([module], [torch.from_numpy(random_array(shape))])

    def outputs(self, model: Model, profile: DeviceProfile, images: np.ndarray) -> np.ndarray:
        """Return the output of a program's module."""
        import torch

        module, _ = module_of(model, profile)
        with torch.inference_mode(), self.settled(profile):
            return np.asarray(module(torch.from_numpy(images)).numpy())

    def call(self, modules: list[Any], inputs: list[Any]) -> Run:
        """Return a run that calls every module on the inputs.

        Results live to the end of the run, so that each is written where nothing has been lately, as in a network; into
        the one before it, which is still in the caches, operators write up to a third faster.
        """
        import torch

        def run() -> None:
            with torch.inference_mode():
                kept = [module(*inputs) for module in modules]
                del kept

        return run

    def nothing(self) -> Run:
        """Return a run of no module."""
        return _nothing


@dataclass(frozen=True, kw_only=True, eq=False)
class Lab:
    """Operators as modules, on CPU."""

    runtime: TorchEager
    profile: DeviceProfile

    def operator(self, signature: OpSignature, c_in: int, c_out: int) -> "ModuleOperator":
        """Return the operator."""
        return ModuleOperator(lab=self, signature=signature, c_in=c_in, c_out=c_out)

    def clear(self) -> None:
        """Nothing is shared."""

    @cached_property
    def rest(self) -> Run:
        """What a run costs without operators."""
        return self.runtime.nothing()


@dataclass(frozen=True, kw_only=True, eq=False)
class ModuleOperator:
    """An operator whose copies are modules."""

    lab: Lab
    signature: OpSignature
    c_in: int
    c_out: int

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weight in float32."""
        return 4 * num_weights(self.signature, self.c_in, self.c_out)

    def held_bytes(self, copies: int) -> int:
        """Return the bytes of all copies' weights."""
        return copies * self.weight_bytes

    def run(self, copies: int, *, own_outputs: bool) -> Run:
        """Return a run of the copies; every copy has its output for itself anyway."""
        from lut.measure.torch_ops import operands, operator_module

        modules = [operator_module(self.signature, self.c_in, self.c_out, 104729 * copy) for copy in range(copies)]
        inputs = operands(self.signature, self.c_in, self.c_out, self.lab.profile.batch)
        return self.lab.runtime.call(modules, inputs)

    def rest(self, copies: int) -> Run:
        """Return what a run costs without operators, the same for all."""
        return self.lab.rest


def _nothing() -> None:
    """Run nothing."""
