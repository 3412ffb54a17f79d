"""How a target is measured: on this machine, or by the agents of a device elsewhere."""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from app.settings import Settings
from lut.measure.bench import Progress
from lut.measure.networks import measure_models
from lut.measure.runtime import Program, runtime
from lut.measure.tables import Keep, forget, measure_step, measure_table, silent
from lut.measure.timing import Timing
from lut.profile import DeviceProfile
from lut.request import GridRequest, merge_requests
from lut.table import LatencyTable
from pruning.calibration import plain
from workers.context import StepContext, StepProblem

MIN_RUNS = 3
"""Of a network in each round, at its full share."""


class Meter(Protocol):
    """What the steps have measured; all as `lut.measure` does it."""

    def networks(self, networks: Sequence[Program], *, share: float = 1.0) -> list[Timing]:
        """Return the latencies of whole networks, timed in turns (`measure_models`), for a `share` of `measure_s` each."""

    def step(self, requests: Iterable[GridRequest]) -> int:
        """Return the stair width of the device (`measure_step`)."""

    def table(
        self,
        requests: Iterable[GridRequest],
        known: LatencyTable,
        progress: Progress = silent,
        *,
        span: tuple[float, float] = (0.0, 1.0),
        begun: LatencyTable | None = None,
        keep: Keep = forget,
    ) -> LatencyTable:
        """Return `known` and what had to be measured beyond it (`measure_table`); `span` is its part of the step."""


def meter(context: StepContext, profile: DeviceProfile, agents: str) -> Meter:
    """Return what measures for the profile: this machine, or the agents of the device of that id."""
    seconds = Settings().measure_s
    if agents:
        return Elsewhere(context=context, profile=profile, device=agents, seconds=seconds)
    return Here(profile=profile, seconds=seconds)


@dataclass(frozen=True, kw_only=True)
class Here:
    """Measures in this process."""

    profile: DeviceProfile
    seconds: float

    def networks(self, networks: Sequence[Program], *, share: float = 1.0) -> list[Timing]:
        """As `Meter` says."""
        return measure_models(networks, self.profile, min_seconds=share * self.seconds, min_runs=_min_runs(share))

    def step(self, requests: Iterable[GridRequest]) -> int:
        """As `Meter` says."""
        return measure_step(self.profile, requests)

    def table(
        self,
        requests: Iterable[GridRequest],
        known: LatencyTable,
        progress: Progress = silent,
        *,
        span: tuple[float, float] = (0.0, 1.0),
        begun: LatencyTable | None = None,
        keep: Keep = forget,
    ) -> LatencyTable:
        """As `Meter` says."""
        return measure_table(self.profile, requests, known, progress, begun=begun, keep=keep)


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """Has agents measure. They tell progress and keep what is begun by themselves. Raises StepProblem when they cannot."""

    context: StepContext
    profile: DeviceProfile
    device: str
    seconds: float

    def networks(self, networks: Sequence[Program], *, share: float = 1.0) -> list[Timing]:
        """As `Meter` says."""
        payload = {"min_seconds": share * self.seconds, "min_runs": _min_runs(share)}
        found = self._ask("networks", payload, files=[self._file(one) for one in networks])
        return [
            Timing(**{**one, **{name: tuple(one.get(name, ())) for name in ("samples_ms", "rounds_ms")}})
            for one in found
        ]

    def step(self, requests: Iterable[GridRequest]) -> int:
        """As `Meter` says."""
        return int(self._ask("step", {"requests": [asdict(one) for one in requests]}))

    def table(
        self,
        requests: Iterable[GridRequest],
        known: LatencyTable,
        progress: Progress = silent,
        *,
        span: tuple[float, float] = (0.0, 1.0),
        begun: LatencyTable | None = None,
        keep: Keep = forget,
    ) -> LatencyTable:
        """As `Meter` says."""
        runs = runtime(self.profile.runtime).runs
        asked = [one for one in merge_requests(requests) if runs(one.signature)]
        if not known.missing(asked):
            return known
        # All of the network, not what is missing alone: it tells how far away an operator finds its weights.
        entries = {
            one.signature: {
                point: replace(entry, samples_us=()) for point, entry in known.entries.get(one.signature, {}).items()
            }
            for one in asked
        }
        part = replace(plain(known), entries=entries, seconds=0.0)
        payload = {"requests": [asdict(one) for one in asked], "known": part.to_json()}
        try:
            fresh = LatencyTable.from_json(self._ask("table", payload, span=span))
            table = known.merge(fresh)
        except ValueError as error:
            raise StepProblem("measurement_failed", f"What {self.device} measured is no table: {error}.") from error
        if missing := table.missing(asked):
            detail = f"{self.device} measured all but {len(missing)} of the {len(asked)} operators it was asked for."
            raise StepProblem("measurement_failed", detail)
        return table

    def _ask(
        self, kind: str, payload: dict[str, Any], *, files: Sequence[str] = (), span: tuple[float, float] = (0.0, 0.0)
    ) -> Any:
        question = {"kind": kind, "device": self.device, "profile": asdict(self.profile), "payload": payload}
        return self.context.ask({**question, "networks": list(files), "span": span})[kind]

    def _file(self, program: Program) -> str:
        """Return the name of the network's file in the scratch folder, which the worker reads."""
        assert isinstance(program.onnx, Path)
        path = program.onnx
        if not path.resolve().is_relative_to(self.context.workdir.resolve()):
            path = self.context.path(f"asked-{path.name}")
            shutil.copyfile(program.onnx, path)
        return path.resolve().relative_to(self.context.workdir.resolve()).as_posix()


def _min_runs(share: float) -> int:
    """Return how often a network is run in a round at least: a slow one takes no longer than its share either."""
    return max(1, round(MIN_RUNS * share))
