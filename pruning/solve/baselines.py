"""Plans without a knapsack, to show what the knapsack is worth: uniform widths, random widths, one global threshold.

Each tries plans from the widest down and returns the first that meets every budget. None uses patterns or removes
stages.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from pruning.check import Totals
from pruning.problem import Plan, Problem
from pruning.solve.answer import Run, make_plan
from pruning.solve.build import build_graph
from pruning.solve.factors import Choice, Graph
from pruning.solve.least import Least, least_costs
from pruning.solve.master import solve_master
from pruning.solve.order import DoesNotSplitError
from pruning.solve.price import Pricer
from pruning.solve.relax import sharpest

BOUND_ENTRIES = 1 << 22
"""Table entries of the relaxed graph that bounds a problem whose own graph does not split."""
ROUNDING = 1e-6
"""Units by which `fraction * width` may miss the whole number it stands for."""


def uniform(problem: Problem, *, seed: int = 0, tolerance: float = 1e-3, time_limit_s: float = 30.0) -> Plan:
    """Return the plan that keeps the same fraction of every group: the largest fraction that meets the budgets.

    A group takes its largest offered width within the fraction, or its smallest.
    """
    run = Run(solver="uniform", seed=seed, tolerance=tolerance, time_limit_s=time_limit_s)
    dense = {group.id: group.widths[-1] for group in problem.groups}
    fractions = sorted({1.0, *(w / group.widths[-1] for group in problem.groups for w in group.widths)}, reverse=True)

    def plans() -> Iterator[dict[str, int]]:
        for fraction in fractions:
            yield {
                group.id: max(
                    (w for w in group.widths if w <= fraction * dense[group.id] + ROUNDING), default=group.widths[0]
                )
                for group in problem.groups
            }

    return first_that_fits(problem, plans(), run)


def magnitude(problem: Problem, *, seed: int = 0, tolerance: float = 1e-3, time_limit_s: float = 30.0) -> Plan:
    """Return the plan that keeps, everywhere, the units worth at least one threshold: the lowest that meets the
    budgets.

    A unit is worth what its step adds to the value at dense inputs, per unit, made non-increasing along the group's
    ranking.
    """
    run = Run(solver="magnitude", seed=seed, tolerance=tolerance, time_limit_s=time_limit_s)
    value, _ = linearised(problem)
    worth = {
        group.id: np.minimum.accumulate(np.diff(value[group.id]) / np.diff(group.widths)) for group in problem.groups
    }
    thresholds = sorted({float(step) for steps in worth.values() for step in steps})

    def plans() -> Iterator[dict[str, int]]:
        for threshold in [*thresholds, np.inf]:
            yield {group.id: group.widths[int((worth[group.id] >= threshold).sum())] for group in problem.groups}

    return first_that_fits(problem, plans(), run)


def random(problem: Problem, *, seed: int = 0, tolerance: float = 1e-3, time_limit_s: float = 30.0) -> Plan:
    """Return the plan left by narrowing random groups, one offered width at a time, until the budgets are met."""
    run = Run(solver="random", seed=seed, tolerance=tolerance, time_limit_s=time_limit_s)
    generator = np.random.default_rng(seed)
    steps = np.repeat(np.arange(len(problem.groups)), [len(group.widths) - 1 for group in problem.groups])
    order = generator.permutation(steps)

    def plans() -> Iterator[dict[str, int]]:
        at = [len(group.widths) - 1 for group in problem.groups]
        yield {group.id: group.widths[i] for group, i in zip(problem.groups, at, strict=True)}
        for g in order:
            at[g] -= 1
            yield {group.id: group.widths[i] for group, i in zip(problem.groups, at, strict=True)}

    return first_that_fits(problem, plans(), run)


def linearised(problem: Problem) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return value float64 [n_g] and latency int64 [n_g] of each group's own layers, dense, at dense input widths."""
    value = {group.id: np.zeros(len(group.widths)) for group in problem.groups}
    latency_ns = {group.id: np.zeros(len(group.widths), dtype=np.int64) for group in problem.groups}
    for group_id, kept in problem.group_value.items():
        value[group_id] += kept
    for layer in problem.layers:
        if layer.output is not None:
            value[layer.output] += layer.value[0, -1]
            latency_ns[layer.output] += layer.latency_ns[0, -1]
    return value, latency_ns


def fits(problem: Problem, totals: Totals) -> bool:
    """Whether every budget is met."""
    others = all(totals.other_costs[budget.id] <= budget.limit for budget in problem.other_budgets)
    return others and totals.latency_ns <= problem.budget_ns


def first_that_fits(problem: Problem, plans: Iterable[dict[str, int]], run: Run) -> Plan:
    """Return the first of the width choices that meets the budgets, as a plan."""
    choices = (Choice(widths=widths) for widths in plans)
    choice = next((choice for choice in choices if fits(problem, choice.totals(problem))), None)
    return judged(build_graph(problem), choice, run)


def judged(graph: Graph, choice: Choice | None, run: Run) -> Plan:
    """Return a choice as a plan with the bound of pricing, which says how far from the optimum it can be."""
    try:
        master = solve_master(Pricer(graph), run)
    except DoesNotSplitError:
        bound, least = _relaxed_bound(graph.problem, run), least_costs(graph.problem, graph)
        return make_plan(graph, choice, bound / graph.unit, least, run)
    return make_plan(graph, choice, master.bound, Least(cost=master.least), run)


def _relaxed_bound(problem: Problem, run: Run) -> float:
    """Return a bound on the value of every plan from one relaxed graph; -inf when it proves that there is none."""
    try:
        pricer = sharpest(problem, {}, BOUND_ENTRIES)
    except DoesNotSplitError:
        graph = build_graph(problem)
        return graph.loosest_bound() * graph.unit
    return solve_master(pricer, run).bound * pricer.graph.unit
