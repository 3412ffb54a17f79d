"""The wire: every body the API takes or returns, shared by the client and the service."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from secateur.wire import NO_NUL, Scheduled
from secateur.wire import Name as Name
from secateur.wire import Page as Page
from secateur.wire import Title as Title
from secateur.wire import Wire as Wire


class JobStatus(StrEnum):
    """Where a job is; closed set."""

    QUEUED = "queued"  # -> running, cancelled, failed
    RUNNING = "running"  # -> cancelling, succeeded, failed
    CANCELLING = "cancelling"  # -> cancelled
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """True when the job will not change any more."""
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


Outcome = Literal["budget_met", "budget_missed", "infeasible"]
Saliency = Literal["squared_taylor", "bn_taylor", "cass", "other_classes", "magnitude", "random"]
Solver = Literal["secateur", "halp", "crisp", "uniform", "magnitude", "random", "cp_sat"]
_RUNS, _TILES = r"[1-9]\d?:[1-9]\d?", r"[1-9]\d{0,3}x[1-9]\d{0,3}@[1-9]\d{0,3}/[1-9]\d{0,3}"
PatternChoices = list[Annotated[str, Field(pattern=rf"^({_RUNS}|({_RUNS}v?\+)?{_TILES})$")]]
ANALYTIC = "analytic/"
"""What the ids of devices begin with that exist as models only."""
ANALYTIC_DEVICES = tuple(
    f"{ANALYTIC}{core}" for core in ("dense", "2-4", "n-m", "n-m-compressed", "dual-side", "crisp")
)
PATTERN_CHOICES = ["64x1@1/2", "64x1@1/4", "32x1@1/2", "32x1@1/4"]
RuntimeName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_.-]{0,63}$")]
Threads = Annotated[int, Field(strict=True, ge=1, le=256)]
Batch = Annotated[int, Field(strict=True, ge=1, le=1024)]
BudgetMs = Annotated[float, Field(strict=True, gt=0, lt=1e7)]
ClassName = Annotated[str, Field(pattern=NO_NUL)]
ClassIndex = Annotated[int, Field(strict=True)]
BudgetRatio = Annotated[float, Field(strict=True, gt=0, le=1)]


class ErrorDetail(Wire):
    """One fault of a request: where and what."""

    pointer: str
    """JSON pointer into the body, or the name of the part of an upload."""
    detail: str


class Problem(BaseModel):
    """RFC 9457 problem+json; `code` is stable, `detail` says what to do."""

    model_config = ConfigDict(extra="allow")
    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: list[ErrorDetail] = Field(default=[])


class Model(Wire):
    """An uploaded network, checked: its weights load and it runs once."""

    id: str
    name: str
    arch: str
    """`torchvision/<name>`, `timm/<name>`, `cifar/resnet<depth>[-a|-b]`, or `onnx`."""
    sha256: str
    size_bytes: int
    num_parameters: int
    num_outputs: int
    input_shape: list[int] | None
    """[channels, height, width] where the file fixes it (ONNX), else null: the dataset's image size decides."""
    class_names: list[str] | None
    """Name of each output row, when the uploader gave them."""
    created_at: datetime


class Dataset(Wire):
    """An uploaded ImageFolder zip, checked: every image decodes or is counted in `num_skipped`."""

    id: str
    name: str
    sha256: str
    size_bytes: int
    image_size: int
    mean: list[float]
    std: list[float]
    classes: list[str]
    """Folder names, sorted."""
    num_images: dict[str, int]
    """Decodable images by split: `train`, and `val`, `test` where the zip has them."""
    num_skipped: int
    skipped: list[str]
    """First 50 images that do not decode, with the reason."""
    class_map: dict[str, int] | None
    """Folder name -> output row of the model, when the uploader gave it."""
    created_at: datetime


class FinetuneOptions(Wire):
    """How the slimmed network is trained."""

    mode: Literal["full", "reconstruct", "none"] = "full"
    """`full`: least squares, then distillation; `reconstruct`: least squares alone, training-free; `none`: as cut."""
    max_epochs: int = Field(strict=True, default=30, ge=1, le=1000)
    max_minutes: float = Field(strict=True, default=10, gt=0, le=100_000)
    """Training stops at the end of the epoch in which this much time has passed."""
    batch_size: int = Field(strict=True, default=128, ge=2, le=4096)
    distillation: float = Field(strict=True, default=0.9, ge=0, le=1)
    """Weight of the dense network's soft labels; the rest is cross entropy with the true labels."""


class ScheduleOptions(Wire):
    """How a network gets from dense to its plan."""

    mode: Literal["one_shot", "gradual"] = "one_shot"
    """`gradual`: in steps whose budgets fall from the dense latency to the job's, scored anew and trained a little in between; what
    went never returns. With `solver` "halp" and `saliency` "bn_taylor" it is the paper's, with `patterns` "only" masks nest."""
    steps: int = Field(strict=True, default=8, ge=2, le=100)
    """Of a gradual job; the paper of HALP takes 30."""
    batches: int = Field(strict=True, default=40, ge=0, le=10_000)
    """Mini-batches of training between two steps, where `finetune.mode` is `full`."""


class Budgeted(Wire):
    """A device and what one batch may take on it."""

    device: Name = "local"
    runtime: RuntimeName | None = None
    """What runs the network there: `onnxruntime`, `openvino`, `torch_eager`, `torch_compile`, `torch_cuda`...; null for
    `onnxruntime`, and for whatever its newest table is of where the device is known by tables alone."""
    threads: Threads = 1
    batch: Batch = 1
    budget_ms: BudgetMs | None = None
    budget_ratio: BudgetRatio | None = None
    """Budget as a share of the dense network's latency on that device; exactly one of the two."""

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.budget_ms is None) == (self.budget_ratio is None):
            raise ValueError("give exactly one of budget_ms and budget_ratio")
        return self


class PruneJobCreate(Budgeted, Scheduled):
    """A prune job: these classes, this device, this budget."""

    name: Title = ""
    model_id: Name
    dataset_id: Name
    classes: list[ClassName | ClassIndex] = Field(min_length=1, max_length=10_000)
    """Folder names, or indices into the dataset's sorted folder names."""
    also: list[Budgeted] = Field(default=[], max_length=4)
    """More devices, threads or batches, each with a budget that the same network must keep; `analytic/crisp` and the like are
    accelerators that exist as models only."""
    budgets: list[BudgetMs] = Field(default=[], max_length=64)
    """Further budgets, in the unit of the job's own (ms, or shares of the dense latency): each gets its plan, built and
    measured but not trained, and a point of the frontier in the report."""
    sweep: int = Field(strict=True, default=0, ge=0, le=64)
    """The same for this many budgets, evenly from the least achievable latency to the dense one."""
    max_weight_bytes: int | None = Field(strict=True, default=None, ge=1, lt=2**50)
    """Limit on the exported network's weights and biases, four bytes each."""
    min_widths: dict[Name, Annotated[int, Field(strict=True, ge=1, lt=2**31)]] = Field(default={}, max_length=1000)
    """Least channels of a layer, by its name, or of a coupling group, by its id, as `plan.json` spells them."""
    keep_dense: list[Name] = Field(default=[], max_length=1000)
    """Layers whose input and output channels all stay."""
    remove_stages: bool = Field(strict=True, default=True)
    """Whether whole residual branches may go, where the skip path remains."""
    solver: Solver = "secateur"
    """`secateur` is the optimal one; the others are there to be compared with it."""
    saliency: Saliency = "squared_taylor"
    """`squared_taylor`, `bn_taylor` (HALP's), `cass` (CRISP's) and `magnitude` say what the classes of the job need; `other_classes` is
    CASS on the classes of the data set that the job does not name, and `random` is chance: both are there to be compared with."""
    schedule: ScheduleOptions = ScheduleOptions()
    head: Literal["slice", "mask", "full"] = "slice"
    patterns: Literal["none", "auto", "only"] = "none"
    """`auto`: the plan mixes narrow, masked and dense layers as the device pays; masks run as gather + grouped
    convolution. `only`: masks alone, every channel stays."""
    pattern_choices: PatternChoices = Field(default=PATTERN_CHOICES, min_length=1, max_length=8)
    """Masks on offer: `BxI@K/N` keeps K of every N tiles of B output by I input channels in each row of tiles; `2:4` two
    of every four weights, which pays on NVIDIA GPUs in half precision alone; `2:4+16x16@1/2`, CRISP's hybrid, both, which
    pays on an accelerator built for it (`analytic/crisp` in `also`); `2:4v+64x64@1/2` both, the two of four shared by a row
    of tiles, which any runtime gains from."""
    finetune: FinetuneOptions = FinetuneOptions()
    baselines: bool = Field(strict=True, default=True)
    """Also report random-saliency and uniform-width plans at the same budget."""
    seed: int = Field(strict=True, default=0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _crisp_masks_alone(self) -> Self:
        if self.solver == "crisp" and self.patterns != "only":
            raise ValueError("the solver crisp places masks alone: it wants patterns to be only")
        return self

    @model_validator(mode="after")
    def _budgets_in_the_unit(self) -> Self:
        if self.budget_ratio is not None and any(budget > 1 for budget in self.budgets):
            raise ValueError("budgets are shares of the dense latency, as budget_ratio is: at most 1")
        return self


class Failure(Wire):
    """Why a job failed: a stable code and a sentence."""

    code: str
    detail: str
    errors: list[ErrorDetail] = Field(default=[])


class TableUse(Wire):
    """A version of a latency table that a job used."""

    name: str
    """Name of its file among the job's."""
    lut_id: str
    version: int


class PruneJob(Wire):
    """A prune job and where it stands."""

    id: str
    name: str
    spec: PruneJobCreate
    status: JobStatus
    phase: str | None
    """Open set: validating profiling scoring solving slimming measuring finetuning exporting."""
    progress: float
    """0 to 1 over the whole job."""
    outcome: Outcome | None
    attempt: int
    summary: dict[str, Any] | None
    """Headline figures of the report, once there are any: budget_ms, dense_ms, measured_ms, min_achievable_ms,
    accuracy_dense, accuracy..."""
    failure: Failure | None
    tables: list[TableUse] = Field(default=[])
    """Latency tables it plans with, each in the version it was given or made."""
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class JobEvent(Wire):
    """One line of a job's history; `id` grows, and is the SSE event id."""

    id: int
    job_id: str
    kind: str
    """`status`, `phase`, `progress`, `log`, `metric`, `warning`."""
    data: dict[str, Any]
    created_at: datetime


class Artifact(Wire):
    """A file a job left: `model.onnx`, `model.safetensors`, `plan.json`, `report.json`, `report.html`, `table.json`, and with masks
    `model.compact.safetensors`."""

    name: str
    sha256: str
    size_bytes: int
    media_type: str


class Blocker(Wire):
    """Something the preflight found: `error` stops the job, `warning` limits it."""

    severity: Literal["error", "warning"]
    code: str
    detail: str
    layer: str | None = None
    latency_share: float | None = None
    """Share of the dense latency this layer owns (of MACs where no table exists yet)."""


class Preflight(Wire):
    """What a job would meet; nothing is stored."""

    ok: bool
    blockers: list[Blocker]
    num_coupling_groups: int
    prunable_latency_share: float
    dense_ms: float | None
    min_achievable_ms: float | None
    """Null until the device has a table for this network."""
