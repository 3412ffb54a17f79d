"""The value-latency frontier: one certified plan per latency budget, from one graph."""

from collections.abc import Sequence
from dataclasses import replace

from pruning.check import VALUE_TOLERANCE, relative_gap
from pruning.problem import Plan, Problem, validate
from pruning.solve.answer import Run
from pruning.solve.build import build_graph
from pruning.solve.close import solve_split
from pruning.solve.factors import Choice
from pruning.solve.least import least_costs
from pruning.solve.order import DoesNotSplitError
from pruning.solve.price import Pricer
from pruning.solve.whole import solve_whole


def frontier(
    problem: Problem,
    budgets_ns: Sequence[int],
    *,
    seed: int = 0,
    tolerance: float = 1e-3,
    time_limit_s: float = 30.0,
) -> tuple[Plan, ...]:
    """Return the plan of each latency budget, in the order of `budgets_ns`; `time_limit_s` is for each of them.

    Each obeys `pruning.check.check` for `replace(problem, budget_ns=...)` and carries a bound of its own. More budget never
    means less value: a plan that keeps a smaller budget keeps a larger one, and a bound for a larger one holds for a smaller one.
    Raises ValueError like `solve`.
    """
    validate(problem)
    plans: list[Plan] = []
    order = sorted(range(len(budgets_ns)), key=lambda i: budgets_ns[i])
    graph = build_graph(problem)
    try:
        pricer, least = Pricer(graph), None
    except DoesNotSplitError:
        pricer, least = None, least_costs(problem, graph)
    for i in order:
        run = Run(solver="secateur", seed=seed, tolerance=tolerance, time_limit_s=time_limit_s)
        part = replace(problem, budget_ns=budgets_ns[i])
        limits = graph.limits.copy()
        limits[0] = budgets_ns[i] - problem.fixed_latency_ns
        limited = replace(graph, problem=part, limits=limits)
        if pricer is not None:
            plan = solve_split(limited, pricer.limited(limits), run)
        else:
            known = [_choice(before) for before in plans[-1:] if before.found]
            plan = solve_whole(part, limited, run, known=known, least=least)
        plans.append(_at_least(plan, plans[-1], graph.loosest_bound() * graph.unit, tolerance) if plans else plan)
    for later in reversed(range(len(plans) - 1)):
        plans[later] = _bounded(plans[later], plans[later + 1], tolerance)
    return tuple(plans[order.index(i)] for i in range(len(budgets_ns)))


def _choice(plan: Plan) -> Choice:
    return Choice(widths=plan.widths, patterns=plan.patterns, removed=plan.removed)


def _at_least(plan: Plan, smaller: Plan, loosest: float, tolerance: float) -> Plan:
    """Return the plan, or that of a smaller budget where it is worth more, under the plan's own bound (`loosest` if it has none)."""
    if not smaller.found or (plan.found and plan.value >= smaller.value):
        return plan
    bound = plan.bound if plan.found else loosest
    return _certified(replace(smaller, seconds=plan.seconds), max(smaller.value, bound), tolerance)


def _bounded(plan: Plan, larger: Plan, tolerance: float) -> Plan:
    """Return the plan with the bound of a larger budget where that is tighter."""
    tighter = plan.found and larger.found and larger.bound < plan.bound
    return _certified(plan, max(plan.value, larger.bound), tolerance) if tighter else plan


def _certified(plan: Plan, bound: float, tolerance: float) -> Plan:
    gap = relative_gap(bound, plan.value)
    status = "optimal" if gap <= max(tolerance, VALUE_TOLERANCE) else "feasible"
    return replace(plan, bound=bound, gap=gap, status=status)
