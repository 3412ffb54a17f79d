"""The devices a job's network must be fast on: the job's own first, then those in `also`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lut.measure.runtime import Program, runtime
from lut.profile import DeviceProfile
from lut.signature import OpSignature
from pruning.export import to_onnx
from pruning.network import Network
from pruning.program import program
from workers.context import StepContext, StepProblem
from workers.files import TABLES, known
from workers.steps.loading import problems
from workers.steps.meter import Meter, meter


@dataclass(frozen=True, kw_only=True)
class Target:
    """One device, runtime, threads and batch, and what a batch may take there."""

    index: int
    profile: DeviceProfile
    device: str
    """Id of the device in the registry."""
    here: bool
    """True when it can be measured on, by this worker or an agent; else only the device's table speaks for it."""
    budget_ms: float | None
    budget_ratio: float | None
    meter: Meter
    """Measures there."""

    @property
    def table_file(self) -> str:
        """Name of its latency table among the step's files."""
        return TABLES[self.index]

    @property
    def known_table_file(self) -> str:
        """Name of the table the registry had before the job."""
        return known(self.table_file)

    def program(self, network: Network, path: Path) -> Program:
        """Return a network to be timed here: its ONNX file, and what other runtimes run."""
        sparse = OpSignature(kind="linear", height=1, width=1, pattern="2:4")
        return program(network, path, two_of_four=runtime(self.profile.runtime).runs(sparse))

    def limit_ms(self, dense_ms: float) -> float:
        """Return the budget in ms where the dense network takes `dense_ms`."""
        if self.budget_ms is not None:
            return self.budget_ms
        assert self.budget_ratio is not None
        return self.budget_ratio * dense_ms


def targets(context: StepContext) -> tuple[Target, ...]:
    """Return the job's targets, its own device first. A runtime that is not installed here ends the job."""
    if absent := context.spec.get("absent"):
        raise StepProblem("runtime_absent", absent[0])
    wanted: list[dict[str, Any]] = [context.spec["job"], *context.spec["job"]["also"]]
    devices: list[dict[str, Any]] = [{"profile": context.spec["profile"], "here": True}, *context.spec["also"]]
    agents = context.spec.get("agents", "")  # of the job's own device, where it has any
    return tuple(
        Target(
            index=index,
            profile=DeviceProfile(**device["profile"]),
            device=budget["device"],
            here=device["here"],
            budget_ms=budget["budget_ms"],
            budget_ratio=budget["budget_ratio"],
            meter=meter(context, DeviceProfile(**device["profile"]), agents if device["here"] else ""),
        )
        for index, (budget, device) in enumerate(zip(wanted, devices, strict=True))
    )


def dense_program(context: StepContext, dense: Network, target: Target) -> Program:
    """Return the dense network at the target's batch, its ONNX file written if it is not there."""
    path = context.path(f"dense_{target.index}.onnx" if target.index else "dense.onnx")
    if not path.exists():
        with problems():
            to_onnx(dense, path, batch=target.profile.batch)
    return program(dense, path)
