"""ONNX Runtime on CPU: operators isolated from the graph as it optimises it (`lut.measure.isolate`)."""

from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from lut.measure.hardware import cpu_profile
from lut.measure.isolate import IsolatedOperator, isolate, repeated
from lut.measure.onnx_ops import identity_model
from lut.measure.runtime import Model, Run, RuntimeAbsent, onnx_of
from lut.measure.sessions import Buffers, bound_run, network_run, network_session, session_options, verbatim_session
from lut.pattern import Pattern
from lut.profile import DeviceProfile
from lut.signature import OpSignature

NAME = "onnxruntime"


def make(name: str) -> "OnnxRuntime":
    """Return the runtime."""
    return OnnxRuntime()


@dataclass(frozen=True, kw_only=True)
class OnnxRuntime:
    """ONNX Runtime on CPU."""

    name: str = NAME
    max_copies: int = 64

    def version(self) -> str:
        """Return its version."""
        for package in ("onnxruntime", "onnxruntime-gpu"):
            with suppress(PackageNotFoundError):
                return version(package)
        raise RuntimeAbsent("ONNX Runtime is not installed: pip install onnxruntime")

    def profile(self, threads: int, batch: int) -> DeviceProfile:
        """Return the profile of this machine's CPU."""
        return cpu_profile(self.name, self.version(), threads, batch)

    def runs(self, signature: OpSignature) -> bool:
        """Return whether the pattern can be lowered to standard operators."""
        return not signature.pattern or Pattern.parse(signature.pattern).lowerable

    def settled(self, profile: DeviceProfile) -> nullcontext[None]:
        """Every session has threads of its own."""
        return nullcontext()

    def lab(self, profile: DeviceProfile) -> "_Lab":
        """Return a lab whose sessions share buffers."""
        return _Lab(profile=profile)

    def network_run(self, model: Model, profile: DeviceProfile) -> Run:
        """Return a run of an ONNX network; a symbolic first dimension becomes the profile's batch."""
        return network_run(onnx_of(model), profile)

    def outputs(self, model: Model, profile: DeviceProfile, images: np.ndarray) -> np.ndarray:
        """Return the first output."""
        session = network_session(onnx_of(model), profile)
        return np.asarray(session.run(None, {session.get_inputs()[0].name: images})[0])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Lab:
    profile: DeviceProfile
    buffers: Buffers = field(default_factory=dict)
    nothing: list[Run] = field(default_factory=list)

    def operator(self, signature: OpSignature, c_in: int, c_out: int) -> "_Operator":
        isolated = isolate(signature, c_in, c_out, self.profile.batch, session_options(self.profile))
        return _Operator(lab=self, isolated=isolated)

    def clear(self) -> None:
        self.buffers.clear()
        self.nothing.clear()

    def rest(self) -> Run:
        """Return the fixed cost of a run, one for all operators."""
        if not self.nothing:
            self.nothing.append(self.bound(identity_model().SerializeToString()))
        return self.nothing[0]

    def bound(self, model: bytes, own_outputs: bool = False) -> Run:
        session = verbatim_session(model, self.profile)
        return bound_run(session, {}, self.buffers, own_outputs)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Operator:
    lab: _Lab
    isolated: IsolatedOperator

    @property
    def weight_bytes(self) -> int:
        return self.isolated.weight_bytes

    def held_bytes(self, copies: int) -> int:
        return copies * self.weight_bytes

    def run(self, copies: int, *, own_outputs: bool) -> Run:
        return self.lab.bound(repeated(self.isolated, copies).SerializeToString(), own_outputs)

    def rest(self, copies: int) -> Run:
        return self.lab.rest()
