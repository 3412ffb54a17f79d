"""Proof without a solver that a plan obeys its problem: everything is looked up again in the tables."""

from bisect import bisect_left
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pruning.problem import Layer, Plan, Problem

VALUE_TOLERANCE = 1e-9
"""Relative difference allowed between two float sums of the same values."""


class PlanError(AssertionError):
    """The plan does not obey its problem; the message says which number or name is wrong."""


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What a choice of widths and patterns gives and costs."""

    value: float
    latency_ns: int
    other_costs: dict[str, int]


def evaluate(
    problem: Problem,
    widths: Mapping[str, int],
    patterns: Mapping[str, str] | None = None,
    removed: Collection[str] = (),
) -> Totals:
    """Return the totals of a choice, fixed costs included, by summing table entries.

    Layers and inner groups of the stages in `removed` count nothing. Raises PlanError for a group without width, a
    width or pattern that is not offered, an unknown name, and an inner group of a removed stage with a width other than
    0.
    """
    patterns = patterns or {}
    _check_names(problem, widths, patterns, removed)
    gone = {name for stage in problem.stages if stage.id in removed for name in stage.layers}
    gone_groups = {group_id for stage in problem.stages if stage.id in removed for group_id in stage.groups}
    choice: dict[str, int] = {}
    value = 0.0
    for group in problem.groups:
        if group.id in gone_groups:
            if widths[group.id] != 0:
                raise PlanError(f"group {group.id} is inside a removed stage and keeps {widths[group.id]} units")
            continue
        if widths[group.id] not in group.widths:
            raise PlanError(f"group {group.id}: width {widths[group.id]} is not offered")
        choice[group.id] = group.widths.index(widths[group.id])
        if group.id in problem.group_value:
            value += float(problem.group_value[group.id][choice[group.id]])
    latency_ns = problem.fixed_latency_ns
    other = {budget.id: budget.fixed for budget in problem.other_budgets}
    for layer in problem.layers:
        if layer.name in gone:
            continue
        at = _entry(layer, widths, choice, patterns)
        value += float(layer.value[at])
        latency_ns += int(layer.latency_ns[at])
        for budget_id in other:
            if budget_id in layer.other_costs:
                other[budget_id] += int(layer.other_costs[budget_id][at])
    return Totals(value=value, latency_ns=latency_ns, other_costs=other)


def _check_names(
    problem: Problem, widths: Mapping[str, int], patterns: Mapping[str, str], removed: Collection[str]
) -> None:
    groups = {group.id for group in problem.groups}
    if groups != set(widths):
        raise PlanError(f"groups without a width, or widths without a group: {sorted(groups ^ set(widths))}")
    if unknown := set(patterns) - {layer.name for layer in problem.layers}:
        raise PlanError(f"patterns for unknown layers: {sorted(unknown)}")
    if unknown := set(removed) - {stage.id for stage in problem.stages}:
        raise PlanError(f"removed stages that may not be removed: {sorted(unknown)}")


def _entry(
    layer: Layer, widths: Mapping[str, int], choice: Mapping[str, int], patterns: Mapping[str, str]
) -> tuple[int, int, int]:
    """Return the (pattern, input, output) index of the layer's table entry."""
    pattern = patterns.get(layer.name, layer.patterns[0])
    if pattern not in layer.patterns:
        raise PlanError(f"layer {layer.name}: pattern {pattern} is not offered")
    column = row = 0
    if len(layer.inputs) == 1 and layer.value.shape[1] > 1:
        row = choice[layer.inputs[0]]
    elif len(layer.inputs) > 1:
        terms = zip(layer.inputs, layer.input_multiplicity, strict=True)
        count = layer.input_fixed + sum(times * widths[group_id] for group_id, times in terms)
        row = bisect_left(layer.input_counts, count)
        if row == len(layer.input_counts) or layer.input_counts[row] != count:
            raise PlanError(f"layer {layer.name}: {count} input channels are not in its table")
    if layer.output is not None and layer.value.shape[2] > 1:
        column = choice[layer.output]
    return layer.patterns.index(pattern), row, column


def check(problem: Problem, plan: Plan) -> None:
    """Return when the plan obeys the problem, raise PlanError otherwise.

    Checked: every width and pattern is offered, removed stages are removable and empty, value, latency and other costs
    are what the tables say, no budget is exceeded, bound >= value, the gap is theirs. A plan without widths must say
    `infeasible` or `unknown`; that nothing fits is the solver's word.
    """
    if plan.status not in ("optimal", "feasible", "infeasible", "unknown"):
        raise PlanError(f"unknown status {plan.status}")
    if not plan.found:
        if plan.widths or plan.patterns or plan.removed:
            raise PlanError(f"status {plan.status} with widths, patterns or removed stages")
        return
    totals = evaluate(problem, plan.widths, plan.patterns, plan.removed)
    slack = VALUE_TOLERANCE * max(1e-300, abs(totals.value), abs(plan.bound))
    if abs(totals.value - plan.value) > slack:
        raise PlanError(f"value is {totals.value}, the plan says {plan.value}")
    if totals.latency_ns != plan.latency_ns:
        raise PlanError(f"latency is {totals.latency_ns} ns, the plan says {plan.latency_ns} ns")
    if totals.other_costs != plan.other_costs:
        raise PlanError(f"other costs are {totals.other_costs}, the plan says {plan.other_costs}")
    if totals.latency_ns > problem.budget_ns:
        raise PlanError(f"latency {totals.latency_ns} ns is over the budget of {problem.budget_ns} ns")
    for budget in problem.other_budgets:
        if totals.other_costs[budget.id] > budget.limit:
            raise PlanError(f"{budget.id}: {totals.other_costs[budget.id]} is over the budget of {budget.limit}")
    if plan.bound < plan.value - slack:
        raise PlanError(f"bound {plan.bound} is below the value {plan.value}")
    if abs(relative_gap(plan.bound, plan.value) - plan.gap) > VALUE_TOLERANCE:
        raise PlanError(f"gap is {relative_gap(plan.bound, plan.value)}, the plan says {plan.gap}")


def relative_gap(bound: float, value: float) -> float:
    """Return (bound - value) over the larger magnitude of both (that is the bound, for values >= 0), never negative."""
    scale = max(abs(bound), abs(value))
    return max(0.0, (bound - value) / scale) if scale else 0.0
