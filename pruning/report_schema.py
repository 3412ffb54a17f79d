"""The shape of a report's JSON: `Report` and its parts.

Times are milliseconds on the job's device unless their name says otherwise, accuracies shares in 0..1 on the reported split (which
chose nothing). A figure that could not be taken is null.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Figure = Annotated[float | None, BeforeValidator(_finite)]


class Part(BaseModel):
    """Base of the report's parts: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Side(Part):
    """One network, dense or slim, as measured."""

    p50_ms: Figure = None
    p90_ms: Figure = None
    num_samples: int = 0
    accuracy: Figure = None
    per_class: list[Figure] = []
    """In the order of `Report.classes`."""
    num_macs: int | None = None
    num_parameters: int | None = None
    weight_bytes: int | None = None
    """Of the weights and biases in the ONNX file."""
    size_bytes: int | None = None
    """Of the ONNX file."""


class Attempt(Part):
    """One plan: what the latency table promised and what its network took."""

    predicted_ms: Figure
    measured_ms: Figure
    p90_ms: Figure = None
    correction: Figure = None
    """Factor on the table under which the plan was solved."""
    value: Figure = None
    chosen: bool = False


class Width(Part):
    """How many units of one coupling group stay."""

    group: str
    units: int
    kept: int
    reason: str = ""
    """Why the group had to stay dense; empty where it could be pruned."""


class LayerPattern(Part):
    """The mask of one layer."""

    layer: str
    pattern: str


class Solver(Part):
    """What the solver proved about the chosen plan."""

    name: str
    status: str
    value: Figure
    bound: Figure
    gap: Figure
    """(bound - value) / bound."""
    seconds: Figure


class FrontierPoint(Part):
    """The best plan at one budget, built and measured, not trained."""

    budget_ms: Figure
    status: str
    predicted_ms: Figure = None
    measured_ms: Figure = None
    p90_ms: Figure = None
    value_share: Figure = None
    """Saliency kept, as a share of the dense network's."""
    gap: Figure = None
    own: bool = False
    """True for the job's own plan."""


class Limit(Part):
    """One more budget of the same network: another device, or bytes."""

    name: str
    unit: str
    limit: Figure
    min_achievable: Figure = None
    """Least any width on offer reaches, this budget by itself."""
    planned: Figure = None
    """By the table."""
    measured: Figure = None
    """Null where this worker cannot measure: the table's word counts."""
    dense: Figure = None


class Baseline(Part):
    """Another plan at the same budget, before fine-tuning; the job's own plan is among them for comparison."""

    name: str
    measured_ms: Figure
    accuracy_cut: Figure
    """With the weights as cut."""
    accuracy_reconstructed: Figure
    """After least squares."""
    note: str = ""


class Stage(Part):
    """Accuracy on the reported split at one point of the repair."""

    name: str
    accuracy: Figure
    per_class: list[Figure] = []


class Epoch(Part):
    """One epoch on the selection split; 0 is the start."""

    epoch: int
    accuracy: Figure
    loss: Figure
    train_loss: Figure = None
    seconds: Figure = None


class StoredLayer(Part):
    """One masked weight in three forms."""

    layer: str
    pattern: str
    """`bitmap` where one bit a weight says what stays: no pattern describes the mask."""
    density: Figure
    dense_bytes: int
    csr_bytes: int
    compact_bytes: int
    metadata_bits: int
    """Of the compact form: indices of N:M and of tiles."""


class Storage(Part):
    """All tensors of a network with masks; totals hold `other_bytes`, which every form stores alike."""

    layers: list[StoredLayer]
    other_bytes: int
    dense_bytes: int
    csr_bytes: int
    compact_bytes: int
    metadata_bits: int


class Core(Part):
    """An accelerator that exists as a model only: latency and energy of one batch, dense and slim."""

    name: str
    dense_us: float
    slim_us: float
    dense_uj: float
    slim_uj: float
    best_layer_speedup: float


class CoreLayer(Part):
    """One layer with weights on all of them."""

    name: str
    pattern: str
    density: Figure
    """Weights kept, as a share of the dense network's; 0 where the layer is gone."""
    speedups: list[Figure]
    """In the order of `Accelerators.cores`."""


class Accelerators(Part):
    """What a model of accelerators says; nothing of it is measured."""

    cores: list[Core]
    layers: list[CoreLayer]
    macs_share: Figure
    """Multiply-accumulates with kept weights, as a share of the dense network's."""
    unmodelled: list[str] = []
    """Operators that no model covers."""


class Step(Part):
    """One step of a gradual job but the last, which is the plan."""

    step: int
    budget_ms: Figure
    predicted_ms: Figure
    num_units: int
    """Units of coupling groups that are left."""
    num_masked: int
    """Masked layers."""
    loss: Figure = None
    """Of the last mini-batch before the next step; null without training."""
    seconds: Figure


class Training(Part):
    """The fine-tuning run."""

    epochs: list[Epoch]
    best_epoch: int
    learning_rate: Figure
    precision: str
    seconds: Figure
    diverged: bool = False


class Warning(Part):
    """Something the reader should know before trusting a figure."""

    code: str
    detail: str


class Report(Part):
    """All of a job's result that is not a file."""

    schema_version: Literal[1] = 1
    title: str
    outcome: Literal["budget_met", "budget_missed", "infeasible"]
    verdict: str
    budget_ms: float
    min_achievable_ms: Figure = None
    model: dict[str, str | int | float | None] = {}
    """Name, architecture, checksum: what was pruned."""
    device: dict[str, str | int | float | None] = {}
    classes: list[str]
    class_map_source: str = ""
    reported_split: str = ""
    selection_split: str = ""
    dense: Side
    slim: Side | None = None
    stages: list[Stage] = []
    attempts: list[Attempt] = []
    widths: list[Width] = []
    removed: list[str] = []
    """Whole residual branches that were taken out."""
    patterns: list[LayerPattern] = []
    """Masked layers; the others are dense."""
    solver: Solver | None = None
    baselines: list[Baseline] = []
    limits: list[Limit] = []
    """Budgets beside the job's own."""
    frontier: list[FrontierPoint] = []
    """Plans at further budgets from the same scoring pass, and the job's own among them; empty where none was asked for."""
    storage: Storage | None = None
    """Null where nothing is masked."""
    modelled: Accelerators | None = None
    schedule: list[Step] = []
    """How a gradual job came to its plan; empty for a plan in one shot."""
    training: Training | None = None
    warnings: list[Warning] = []
    seconds: dict[str, Figure] = {}
    """Wall time by phase."""
    onnx_max_abs_error: Figure = None
    """Between the exported file and the PyTorch network."""
    provenance: dict[str, str | int | float | None] = {}
    """Seeds, versions, hashes."""

    @property
    def kept_dense(self) -> list[Width]:
        """Groups that could not be pruned, with the reason."""
        return [width for width in self.widths if width.reason]
