"""What measuring asks of a runtime, and the runtimes there are, by name.

Grids, stairs, turns, noise and pace are the same for all of them (`lut.measure.tables`,
`lut.measure.bench`, `lut.measure.networks`). A runtime says how its operators and networks are run: one file each.
"""

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from lut.profile import DeviceProfile
from lut.signature import OpSignature

Run = Callable[[], float | None]
"""Runs something once, to its end. Returns the seconds it took by the device's own clock, or None: then the caller's
clock counts.
"""

FILES = {
    "onnxruntime": "lut.measure.onnxruntime",
    "openvino": "lut.measure.openvino",
    "torch_eager": "lut.measure.torch_eager",
    "torch_compile": "lut.measure.torch_compile",
    "torch_cuda": "lut.measure.torch_cuda",
    "torch_cuda_fp16": "lut.measure.torch_cuda",
    "torch_cuda_graph": "lut.measure.torch_cuda",
    "torch_cuda_graph_fp16": "lut.measure.torch_cuda",
    "onnxruntime_cuda": "lut.measure.onnxruntime_gpu",
    "onnxruntime_tensorrt": "lut.measure.onnxruntime_gpu",
}
"""Where each runtime's `make(name)` is."""


class RuntimeAbsent(RuntimeError):
    """This machine cannot run the runtime; the message says what to install."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A whole network in every form its maker can give; each runtime takes the one it runs."""

    onnx: bytes | Path
    """The model, or its file."""
    module: Callable[[], Any] | None = None
    """Makes the network as a `torch.nn.Module` in eval mode that takes float32 [batch, *input_shape]; called once for
    each run that is made of it.
    """
    input_shape: tuple[int, ...] = ()
    """Of one image; what a module is fed."""


Model = bytes | Path | Program
"""Whatever can be timed; the first two are ONNX."""


class Operator(Protocol):
    """One operator at one point of its grid, ready to be timed."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of the constants that each copy has for itself."""

    def held_bytes(self, copies: int) -> int:
        """Return the memory, about, that a run of so many copies and its rest keep to themselves."""

    def run(self, copies: int, *, own_outputs: bool) -> Run:
        """Return a run of `copies` of the operator, on one input, each with weights of its own and, where asked for,
        an output of its own.
        """

    def rest(self, copies: int) -> Run:
        """Return a run of everything `run(copies)` does beside the operator; an equal one may be the same object."""


class Lab(Protocol):
    """Makes operators for one measurement; what they share is forgotten with `clear`."""

    def operator(self, signature: OpSignature, c_in: int, c_out: int) -> Operator:
        """Return the operator as a network runs it. Raises ValueError for one that there is not."""

    def clear(self) -> None:
        """Drop what operators share; the runs made so far are not used any more."""


class Runtime(Protocol):
    """One way to run networks on this machine."""

    @property
    def name(self) -> str:
        """Its name in `FILES`, in profiles and in jobs."""

    @property
    def max_copies(self) -> int:
        """Most copies of an operator in one run."""

    def version(self) -> str:
        """Return the installed version; quick. Raises RuntimeAbsent."""

    def profile(self, threads: int, batch: int) -> DeviceProfile:
        """Return this machine's profile. Raises RuntimeAbsent, and ValueError for threads or batch below 1."""

    def runs(self, signature: OpSignature) -> bool:
        """Return whether it has a way to run the signature's pattern; a dense operator always runs."""

    def settled(self, profile: DeviceProfile) -> AbstractContextManager[object]:
        """Return a context in which its process-wide settings (threads) are the profile's."""

    def lab(self, profile: DeviceProfile) -> Lab:
        """Return a lab on this machine."""

    def network_run(self, model: Model, profile: DeviceProfile) -> Run:
        """Return a run of a whole network on fixed random inputs.

        Raises ValueError for a network it cannot load or feed, or that is not there in the form it needs.
        """

    def outputs(self, model: Model, profile: DeviceProfile, images: np.ndarray) -> np.ndarray:
        """Return the first output for `images`, float32 [batch, ...], computed as it is timed. Errors as above."""


@dataclass(frozen=True, kw_only=True)
class Availability:
    """Whether a runtime can be used here."""

    name: str
    version: str | None
    reason: str
    """A sentence that says what is missing; empty where it is available."""


def runtime(name: str) -> Runtime:
    """Return the runtime of that name, installed or not. Raises RuntimeAbsent for a name that there is not."""
    if name not in FILES:
        raise RuntimeAbsent(f"there is no runtime {name!r}: there are {', '.join(FILES)}")
    return cast(Runtime, importlib.import_module(FILES[name]).make(name))


def available() -> list[Availability]:
    """Return every runtime with its version here, or with what it lacks."""
    found = []
    for name in FILES:
        try:
            found.append(Availability(name=name, version=runtime(name).profile(1, 1).runtime_version, reason=""))
        except RuntimeAbsent as absent:
            found.append(Availability(name=name, version=None, reason=str(absent)))
    return found


def checked_runtime(profile: DeviceProfile) -> Runtime:
    """Return the profile's runtime. Raises RuntimeAbsent, and ValueError when this machine is not the profile's."""
    found = runtime(profile.runtime)
    if profile != (here := found.profile(profile.threads, profile.batch)):
        raise ValueError(f"this machine measures for {here}, not for {profile}")
    return found


def onnx_of(model: Model) -> bytes | Path:
    """Return the ONNX form of a model."""
    return model.onnx if isinstance(model, Program) else model
