"""The wire of devices and latency tables; what they share with the rest is in `secateur.schemas`."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from secateur.schemas import (
    PATTERN_CHOICES,
    Batch,
    Failure,
    JobStatus,
    Name,
    PatternChoices,
    RuntimeName,
    TableUse,
    Threads,
    Title,
    Wire,
)
from secateur.wire import NO_NUL, Scheduled

DeviceId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class DeviceCreate(Wire):
    """A device no worker serves, for tables that come from elsewhere."""

    id: DeviceId
    name: Title = ""
    hardware: Title = ""
    runtime: str = Field(default="imported", max_length=64, pattern=NO_NUL)
    runtime_version: str = Field(default="", max_length=64, pattern=NO_NUL)


class Device(Wire):
    """A device the service can measure on, or that has tables from elsewhere."""

    id: str
    name: str
    hardware: str
    runtime: str
    runtime_version: str
    runtimes: list[str] = Field(default=[])
    """What its agents can measure in; empty for a device without agents."""
    last_seen_at: datetime | None = None
    """When one of its agents was last heard of; null for a device without agents."""
    online: bool | None = None
    """Whether an agent of it is there now; null for a device without agents."""
    created_at: datetime


class Lut(Wire):
    """One latency table: a profile, how many entries it holds and how far it can be trusted."""

    id: str
    device_id: str
    profile: dict[str, Any]
    fingerprint: str
    num_entries: int
    num_signatures: int
    step: int
    """Stair width read from the table: channels are offered in multiples of it."""
    noise: float
    """Relative scatter of the machine's pace while the table was measured: no smaller difference means anything."""
    drift: float = 0.0
    """How far that kernel moved, at most."""
    interpolation: float = 0.0
    """What interpolation between measured points missed where that was looked at, as a share of the latency there."""
    calibration_residual: float = 0.0
    """Median error on the whole networks the table was calibrated on; 0 where it was not."""
    seconds: float
    version: int = 1
    """The newest; every change makes another."""
    published_version: int | None = None
    """The team's reference: while there is one, the table takes no import and cannot be deleted."""
    imported: bool = False
    """True when it came from elsewhere."""
    coarse: bool = False
    """True when its key knows no padding, bias, activation or fused sum: convolutions are looked up without them, and
    whatever is no convolution costs nothing."""
    num_pairs: int = 0
    """Jobs whose network was predicted by the table and measured."""
    residual: float | None = None
    """Median of |predicted / measured - 1| over those jobs."""
    created_at: datetime
    updated_at: datetime


class LutVersion(Wire):
    """One state of a table; it never changes."""

    number: int
    sha256: str
    size_bytes: int
    num_entries: int
    num_signatures: int
    source: Literal["job", "import"]
    job_id: str | None
    """Null for an import, and for a job of another project."""
    name: str
    """What the importer called the file."""
    created_at: datetime


class LutComparison(Wire):
    """Two tables, entry by entry."""

    a: str
    b: str
    num_shared: int
    only_a: int
    only_b: int
    ratio_median: float | None
    """Of b / a over the shared entries; null where there are none."""
    ratio_p90: float | None
    rank_correlation: float | None
    """Spearman's; null for fewer than two shared entries, or where all of one table's are equal."""


class LutBuildCreate(Scheduled):
    """Measure every entry a model needs, without pruning anything."""

    name: Title = ""
    model_id: Name
    device: Name = "local"
    runtime: RuntimeName | None = None
    """As in a prune job."""
    threads: Threads = 1
    batch: Batch = 1
    image_size: int | None = Field(strict=True, default=None, ge=8, le=2048)
    """Side of the images in pixels; an ONNX model fixes it itself, for others a dataset may say it."""
    dataset_id: Name | None = None
    patterns: Literal["none", "auto", "only"] = "none"
    """Anything but `none`: entries of masked layers too."""
    pattern_choices: PatternChoices = Field(default=PATTERN_CHOICES, min_length=1, max_length=8)
    seed: int = Field(strict=True, default=0, ge=0, lt=2**31)


class LutBuild(Wire):
    """A job that measures a table, and where it stands."""

    id: str
    name: str
    spec: LutBuildCreate
    status: JobStatus
    phase: str | None
    progress: float
    attempt: int
    summary: dict[str, Any] | None
    """`num_entries_measured`, `num_entries`, `seconds`, once there are any."""
    tables: list[TableUse]
    """The table it extends, then made."""
    failure: Failure | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
