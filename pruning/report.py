"""The report of one prune job: a JSON shape, and one self-contained HTML page drawn from it.

Times are milliseconds on the job's device, accuracies shares in 0..1 on the reported split (which chose nothing).
A figure that could not be taken is null.
"""

import math
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from pydantic import BaseModel, BeforeValidator, ConfigDict

from pruning.formats import format_ms, format_percent, format_points, format_short

SCHEMA_VERSION = 1


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


def build_report(**fields: Any) -> dict[str, Any]:
    """Return the report as JSON-ready values; `fields` are those of `Report`, the verdict is written here.

    Raises:
        ValueError: a field is missing, unknown or of the wrong type (pydantic's ValidationError).
    """
    draft = Report(**{"verdict": "", **fields})
    report: dict[str, Any] = draft.model_copy(update={"verdict": verdict(draft)}).model_dump(mode="json")
    return report


def verdict(report: Report) -> str:
    """Return one sentence: whether the budget is met, by what, and what it cost in accuracy."""
    budget = f"{format_ms(report.budget_ms)} ms"
    slim, dense = report.slim, report.dense
    if report.outcome == "infeasible" or slim is None or slim.p50_ms is None:
        return infeasible(report)
    opening = "Budget met" if report.outcome == "budget_met" else "Budget missed"
    faster = "" if not dense.p50_ms else f", {dense.p50_ms / slim.p50_ms:.2f} times faster than dense"
    sentence = f"{opening}: {format_ms(slim.p50_ms)} ms measured against {budget}{faster}"
    if slim.accuracy is None or dense.accuracy is None:
        return sentence + "."
    num = len(report.classes)
    which = f"{num} classes" if num > 1 else "class"
    return (
        f"{sentence}; accuracy on the {which} {100 * dense.accuracy:.1f} % before, {100 * slim.accuracy:.1f} % after."
    )


def infeasible(report: Report) -> str:
    """Return one sentence: which budget nothing on offer keeps, and what the least is."""
    least_ms = report.min_achievable_ms
    for row in report.limits:
        if row.limit is not None and row.min_achievable is not None and row.min_achievable > row.limit:
            least, limit = (
                f"{format_ms(x)} ms" if row.unit == "ms" else format_short(x) for x in (row.min_achievable, row.limit)
            )
            return f"Infeasible: no width on offer brings this network to {limit} ({row.name}): the least is {least}."
    if report.limits and least_ms is not None and least_ms <= report.budget_ms:
        return "Infeasible: every budget can be kept, but no width on offer keeps all of them at once."
    least = "" if least_ms is None else f": the least is {format_ms(least_ms)} ms"
    budget = format_ms(report.budget_ms)
    return f"Infeasible: no width on offer brings this network to {budget} ms on this device{least}."


def render_html(report: Mapping[str, Any]) -> str:
    """Return one HTML page with everything inline: styles, charts, no script, nothing fetched.

    Args:
        report: what `build_report` returned, possibly read back from JSON.
    """
    return _template().render(report=Report(**report))


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("pruning"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(ms=format_ms, percent=format_percent, short=format_short, points=format_points)
    return environment.get_template("report.html")
