"""The value-latency frontier: a plan per budget from one scoring pass, each built and measured, none trained."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pruning.problem import Plan, Problem
from pruning.search import Corrections, Measurement
from pruning.solve import Solver
from pruning.solve.frontier import frontier as solve_frontier
from workers.context import StepContext
from workers.steps.workbench import Saliency, Workbench


def frontier(
    context: StepContext, bench: Workbench, saliency: Saliency, corrections: Corrections, least_ms: float
) -> list[dict[str, Any]]:
    """Return one point per budget the job asks for beside its own, ascending; empty when it asks for none.

    Plans are solved under the corrections the job's own search ended with, so a point's prediction is as good as the table is
    around the job's own plan; what its network really takes stands beside it.
    """
    wanted = budgets_ms(context.spec["job"], bench.gauges[0].dense_ms, least_ms)
    if not wanted:
        return []
    # As for the job's own plan: below the floor only where nothing else keeps the budget.
    offers = [replace(bench, floor=floor) for floor in (bench.floor, 0.0)]
    measured: dict[tuple[object, ...], Measurement] = {}
    points = []
    name = context.spec["job"]["solver"]
    solved = [
        _solved(one.problem(saliency, wanted[-1], corrections), wanted, name, one.solver(name, saliency), context.seed)
        for one in offers
    ]
    for done, (budget_ms, *plans) in enumerate(zip(wanted, *solved, strict=True)):
        plan = next((one for one in plans if one.found), plans[-1])
        point: dict[str, Any] = {"budget_ms": budget_ms, "status": plan.status, "seconds": plan.seconds}
        if plan.found:
            choice = plan.choice
            if choice not in measured:
                measured[choice] = bench.measure(saliency, 1, plan)[0]
            seen = measured[choice]
            point |= {
                "predicted_ms": plan.latency_ns / 1e6,
                "measured_ms": seen.p50_ms,
                "p90_ms": seen.p90_ms,
                "value": plan.value,
                "value_share": bench.value_share(saliency, plan),
                "bound": plan.bound,
                "gap": plan.gap,
                "widths": plan.widths,
                "removed": list(plan.removed),
                "patterns": plan.patterns,
                "other_costs": plan.other_costs,
            }
            context.metric(frontier_budget_ms=budget_ms, measured_ms=seen.p50_ms, value_share=point["value_share"])
        points.append(point)
        context.progress(1 - 0.3 * (1 - (done + 1) / len(wanted)))
    return points


def _solved(problem: Problem, budgets_ms: Sequence[float], name: str, solver: Solver, seed: int) -> tuple[Plan, ...]:
    budgets_ns = [int(budget_ms * 1e6) for budget_ms in budgets_ms]
    if name == "secateur":
        return solve_frontier(problem, budgets_ns, seed=seed)
    return tuple(solver(replace(problem, budget_ns=budget_ns), seed=seed) for budget_ns in budgets_ns)


def budgets_ms(job: dict[str, Any], dense_ms: float, least_ms: float) -> list[float]:
    """Return the budgets of the frontier in ms, ascending, each once."""
    unit_ms = 1.0 if job["budget_ms"] is not None else dense_ms
    wanted = {budget * unit_ms for budget in job["budgets"]}
    if job["sweep"]:
        # A hair above the least, or rounding makes the first budget infeasible.
        wanted |= set(np.linspace(min(least_ms * 1.001, dense_ms), dense_ms, job["sweep"] + 1)[:-1].tolist())
    return sorted(wanted)
