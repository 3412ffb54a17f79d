"""The figures of a result, dense beside slim, from the job's report and, where that is silent, its summary."""

from collections.abc import Callable, Mapping
from typing import Any

from secateur.cli.common import size
from secateur.schemas import PruneJob

Row = tuple[str, str, str, str]
"""Label, dense, slim, how they compare."""
Figures = Mapping[str, Any]
MOST_CLASSES = 20
"""Classes that get a row of their own."""


def compare(summary: Figures, report: Figures) -> list[Row]:
    """Return the rows of the final table; what neither source knows is left out.

    The report has a `dense` and a `slim` object with p50_ms, p90_ms, accuracy (a share in 0..1), per_class (shares in
    the order of its `classes`), num_macs, num_parameters, size_bytes. The summary tells the sides apart by the name:
    accuracy_dense and accuracy, dense_ms and measured_ms.
    """
    rows = [
        _row("latency p50", "p50_ms", summary, report, _ms, _times),
        _row("latency p90", "p90_ms", summary, report, _ms, _times),
        _row("accuracy", "accuracy", summary, report, _percent, _points),
        *_per_class(summary, report),
        _row("MACs", "num_macs", summary, report, _count, _times),
        _row("parameters", "num_parameters", summary, report, _count, _times),
        _row("bytes", "size_bytes", summary, report, size, _times),
    ]
    return [row for row in rows if row is not None]


def verdict(job: PruneJob, report: Figures) -> str:
    """Return how the job ended, in one sentence: the report's own where there is one."""
    said = report.get("verdict") or (job.summary or {}).get("verdict")
    if isinstance(said, str):
        return said
    summary = job.summary or {}
    budget = _number(summary.get("budget_ms")) or job.spec.budget_ms
    measured, least = _number(summary.get("measured_ms")), _number(summary.get("min_achievable_ms"))
    budget_text = f"the budget of {budget:.3f} ms" if budget is not None else "the budget"
    match job.outcome:
        case "infeasible":
            tail = f": the least that can be reached is {least:.3f} ms" if least is not None else ""
            return f"Infeasible: no network reaches {budget_text}{tail}."
        case "budget_missed":
            tail = f": it measures {measured:.3f} ms" if measured is not None else ""
            return f"Missed: the slim network is over {budget_text}{tail}."
    tail = f": it measures {measured:.3f} ms" if measured is not None else ""
    return f"Met: the slim network is within {budget_text}{tail}."


def baselines(report: Figures) -> list[Row]:
    """Return what other plans give at the same budget before training: name, measured, as cut, after least squares."""
    rows: list[Row] = []
    for plan in _objects(report.get("baselines")):
        keys = ("measured_ms", "accuracy_cut", "accuracy_reconstructed")
        measured, cut, rebuilt = (_number(plan.get(key)) for key in keys)
        shown = ["" if share is None else _percent(share) for share in (cut, rebuilt)]
        rows.append((str(plan.get("name", "")), "" if measured is None else _ms(measured), shown[0], shown[1]))
    return rows


def warnings(report: Figures) -> list[str]:
    """Return what the reader should know before trusting the figures."""
    return [str(warning["detail"]) for warning in _objects(report.get("warnings")) if "detail" in warning]


def _objects(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _row(
    label: str,
    name: str,
    summary: Figures,
    report: Figures,
    show: Callable[[float], str],
    against: Callable[[float, float], str],
) -> Row | None:
    dense = _find(name, "dense", summary, report)
    slim = _find(name, "slim", summary, report)
    if dense is None and slim is None:
        return None
    both = against(dense, slim) if dense is not None and slim is not None else ""
    return label, "" if dense is None else show(dense), "" if slim is None else show(slim), both


SHORT = {
    ("p50_ms", "dense"): ("dense_ms",),
    ("p50_ms", "slim"): ("measured_ms", "slim_ms"),
    ("accuracy", "slim"): ("accuracy",),
    ("num_macs", "slim"): ("num_macs",),
    ("num_parameters", "slim"): ("num_parameters",),
    ("size_bytes", "slim"): ("size_bytes",),
}
"""Names a summary uses instead of `<side>_<name>` or `<name>_<side>`."""


def _find(name: str, side: str, summary: Figures, report: Figures) -> float | None:
    """Return one figure of one side, from the first place that has it as a number."""
    inside = report.get(side)
    places = [inside.get(name)] if isinstance(inside, Mapping) else []
    keys = (f"{side}_{name}", f"{name}_{side}", *SHORT.get((name, side), ()))
    places += [source.get(key) for source in (report, summary) for key in keys]
    return next((number for number in map(_number, places) if number is not None), None)


def _per_class(summary: Figures, report: Figures) -> list[Row]:
    """Return a row per class; of very many classes, those that lost most."""
    dense, slim = (_shares(side, summary, report) for side in ("dense", "slim"))
    names = list(dict.fromkeys([*dense, *slim]))
    rest = len(names) - MOST_CLASSES
    if rest > 0:
        names = sorted(names, key=lambda name: slim.get(name, 0.0) - dense.get(name, 0.0))[:MOST_CLASSES]
    rows: list[Row] = []
    for name in names:
        before, after = dense.get(name), slim.get(name)
        both = _points(before, after) if before is not None and after is not None else ""
        left, right = ("" if share is None else _percent(share) for share in (before, after))
        rows.append((f"  {name}", left, right, both))
    if rest > 0:
        rows.append((f"  {rest} more lost less", "", "", ""))
    return rows


def _shares(side: str, summary: Figures, report: Figures) -> dict[str, float]:
    """Return the accuracy of each class on one side."""
    inside, classes = report.get(side), report.get("classes")
    shares = inside.get("per_class") if isinstance(inside, Mapping) else None
    if isinstance(shares, list) and isinstance(classes, list):
        shares = dict(zip(map(str, classes), shares, strict=False))
    if not isinstance(shares, Mapping) or not shares:
        shares = summary.get("per_class_dense" if side == "dense" else "per_class")
    found = {name: _number(share) for name, share in shares.items()} if isinstance(shares, Mapping) else {}
    return {name: share for name, share in found.items() if share is not None}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _ms(value: float) -> str:
    return f"{value:.3f} ms"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _count(value: float) -> str:
    for unit, length in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= length:
            return f"{value / length:.2f} {unit}"
    return f"{value:.0f}"


def _times(dense: float, slim: float) -> str:
    return f"{slim / dense:.2f} x" if dense else ""


def _points(dense: float, slim: float) -> str:
    return f"{100 * (slim - dense):+.2f} points"
