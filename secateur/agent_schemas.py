"""The wire between the service and the agents that measure for it on other machines.

What an agent sends is checked here as anything from a stranger: types, signs, ranges, sizes. That it answers the
question is for the service to check, and that it makes a table for the worker that asked.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from secateur.lut_schemas import DeviceId
from secateur.schemas import Batch, RuntimeName, Threads, Wire
from secateur.wire import NO_NUL

LEASE_WAIT_S = 25.0
"""Longest an agent may ask the service to wait for work before it answers that there is none."""
MOST_POINTS_OF_ONE = 1 << 13

AgentId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Text = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Count = Annotated[int, Field(strict=True, ge=1, lt=2**31)]
Latency = Annotated[float, Field(strict=True, ge=1e-6, le=1e12, allow_inf_nan=False)]
Noise = Annotated[float, Field(strict=True, ge=0, le=1e12, allow_inf_nan=False)]
Samples = Annotated[
    list[Annotated[float, Field(strict=True, ge=-1e12, le=1e12, allow_inf_nan=False)]], Field(max_length=1 << 12)
]
Point = tuple[Count, Count, Latency, Latency, Count] | tuple[Count, Count, Latency, Latency, Count, Samples]
"""c_in, c_out, p50 in us, p90 in us, number of samples, all samples in us."""
Kind = Literal["step", "table", "networks"]


class AgentProfile(Wire):
    """Fields of a `lut.profile.DeviceProfile`."""

    hardware: Text
    runtime: RuntimeName
    runtime_version: Text
    threads: Threads = 1
    batch: Batch = 1
    dtype: Literal["fp32", "fp16"] = "fp32"
    layout: Literal["nchw", "nhwc"] = "nchw"
    huge_pages: bool = Field(strict=True, default=False)


class AgentHello(Wire):
    """An agent says which device it measures on, and in which runtimes it can."""

    device: DeviceId
    agent: AgentId
    """Made anew each time an agent starts."""
    profiles: list[AgentProfile] = Field(min_length=1, max_length=16)
    """One a runtime, at one thread and batch 1; the first is the device's default."""

    @model_validator(mode="after")
    def _one_a_runtime(self) -> Self:
        if len({profile.runtime for profile in self.profiles}) < len(self.profiles):
            raise ValueError("profiles name a runtime twice")
        return self


class AgentWelcome(Wire):
    """The device is registered."""

    device: str
    fingerprint: str
    """Of the profiles the service now holds for the device; leases are asked for with it."""


class LeaseRequest(Wire):
    """An agent asks for work."""

    agent: AgentId
    fingerprint: str = Field(max_length=64)
    wait_s: float = Field(strict=True, default=LEASE_WAIT_S, ge=0, le=LEASE_WAIT_S)


class Measurement(Wire):
    """One thing to be measured, leased to the agent that asked."""

    id: str
    kind: Kind
    """`step`: the stair width of the device; `table`: entries for `requests`; `networks`: latencies of `files`, in turns."""
    profile: AgentProfile
    payload: dict[str, Any]
    """`requests` and, for a table, `known` (entries that need no measuring); for networks `min_seconds`."""
    files: list[str]
    """SHA-256 of ONNX files, in the order in which their latencies are wanted; one may come twice."""
    begun: dict[str, Any] | None
    """Entries that another agent measured before it was lost."""
    lease_s: float
    """The lease ends this long after the last sign of life; a few signs must fit in."""


class MeasuredEntries(Wire):
    """The measured points of one operator."""

    signature: dict[str, Any] = Field(max_length=16)
    points: list[Point] = Field(max_length=MOST_POINTS_OF_ONE)


class MeasuredTable(Wire):
    """A latency table as `lut.table.LatencyTable.to_json` writes it, not calibrated; figures that it grows are numbers."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Noise]

    schema_version: Literal[1]
    profile: AgentProfile
    entries: list[MeasuredEntries] = Field(max_length=4096)
    step: Count
    scale: Annotated[float, Field(strict=True, ge=1, le=1)] = 1.0
    operator_offset_us: Annotated[float, Field(strict=True, ge=0, le=0)] = 0.0
    noise: Noise
    seconds: Noise


class MeasuredNetwork(Wire):
    """Fields of a `lut.measure.timing.Timing`."""

    p50_ms: Latency
    p90_ms: Latency
    num_samples: Count
    samples_ms: list[Latency] = Field(min_length=1, max_length=200_000)
    rounds_ms: list[Latency] = Field(default_factory=list, max_length=1000)
    num_disturbed: int = Field(strict=True, ge=0, lt=2**31)
    busy: bool = Field(strict=True)
    noise: Noise


class MeasurementProgress(Wire):
    """A sign of life, which renews the lease, or the end of it."""

    agent: AgentId
    fraction: float = Field(strict=True, default=0.0, ge=0, le=1)
    seconds_left: float | None = Field(strict=True, default=None, ge=0, le=1e9)
    table: MeasuredTable | None = None
    """All entries measured so far, now and then: who takes the work over goes on from them."""
    release: bool = Field(strict=True, default=False)
    """True: the agent stops; somebody else may go on at once."""


class MeasurementResult(Wire):
    """What was measured, or why nothing could be."""

    agent: AgentId
    step: Annotated[int, Field(strict=True, ge=1, le=4096)] | None = None
    table: MeasuredTable | None = None
    networks: list[MeasuredNetwork] | None = Field(default=None, min_length=1, max_length=64)
    error: str | None = Field(default=None, min_length=1, max_length=2000, pattern=NO_NUL)

    @model_validator(mode="after")
    def _one_answer(self) -> Self:
        if sum(value is not None for value in (self.step, self.table, self.networks, self.error)) != 1:
            raise ValueError("a result has one of step, table, networks and error")
        return self
