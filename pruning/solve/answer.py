"""What one solver run may use, and its choice as a plan with the checker's own numbers."""

from dataclasses import dataclass, field
from time import monotonic

import numpy as np

from pruning.check import VALUE_TOLERANCE, relative_gap
from pruning.problem import Plan
from pruning.solve.factors import Choice, Graph
from pruning.solve.least import Least


@dataclass(frozen=True, kw_only=True)
class Run:
    """Name and limits of one run; its clock starts when it is made."""

    solver: str
    seed: int
    tolerance: float
    """Proven gap at which to stop."""
    time_limit_s: float
    started: float = field(default_factory=monotonic)

    def left_s(self) -> float:
        """Return the seconds left, negative when there are none."""
        return self.started + self.time_limit_s - monotonic()


def make_plan(graph: Graph, choice: Choice | None, bound: float, least: Least, run: Run) -> Plan:
    """Return the plan of a choice within the budgets; without one, `infeasible` when the bound is -inf, else `unknown`.

    `bound` is in scaled units.
    """
    problem = graph.problem
    fixed = [problem.fixed_latency_ns, *(budget.fixed for budget in problem.other_budgets)]
    achievable = [int(cost) + extra for cost, extra in zip(least.cost, fixed, strict=True)]
    other_achievable = {budget.id: cost for budget, cost in zip(problem.other_budgets, achievable[1:], strict=True)}
    if choice is None:
        return Plan(
            status="infeasible" if bound == -np.inf else "unknown",
            solver=run.solver,
            min_achievable_ns=achievable[0],
            other_min_achievable=other_achievable,
            min_achievable_proven=least.proven,
            seconds=monotonic() - run.started,
            seed=run.seed,
        )
    totals = choice.totals(problem)
    proven = max(totals.value, float(np.floor(bound)) * graph.unit)
    gap = relative_gap(proven, totals.value)
    return Plan(
        status="optimal" if gap <= max(run.tolerance, VALUE_TOLERANCE) else "feasible",
        solver=run.solver,
        widths=choice.widths,
        patterns=choice.patterns,
        removed=choice.removed,
        value=totals.value,
        latency_ns=totals.latency_ns,
        other_costs=totals.other_costs,
        bound=proven,
        gap=gap,
        min_achievable_ns=achievable[0],
        other_min_achievable=other_achievable,
        min_achievable_proven=least.proven,
        seconds=monotonic() - run.started,
        seed=run.seed,
    )
