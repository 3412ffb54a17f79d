"""The report of one prune job: JSON of the shape of `pruning.report_schema`, and one self-contained HTML page drawn from it."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from pruning.formats import format_figure, format_ms, format_percent, format_points, format_short, format_times
from pruning.report_schema import Report


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


def render_html(report: Mapping[str, Any], pictures: Sequence[bytes] = ()) -> str:
    """Return one HTML page with everything inline: styles, charts, no script, nothing fetched.

    Args:
        report: what `build_report` returned, possibly read back from JSON.
        pictures: of the latency table, as PNG.
    """
    inline = [b64encode(picture).decode() for picture in pictures]
    return _template().render(report=Report(**report), pictures=inline)


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("pruning"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        ms=format_ms, percent=format_percent, short=format_short, points=format_points, figure=format_figure,
        times=format_times,
    )  # fmt: skip
    return environment.get_template("report.html")
