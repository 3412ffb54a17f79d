"""The checker takes a solver's plan and no corrupted copy of it."""

from dataclasses import replace
from typing import Any

import pytest

from pruning.check import PlanError, check, evaluate, relative_gap
from pruning.problem import Plan
from pruning.solve import solve
from tests.unit.pruning.knapsacks import RandomProblem, removable_knapsack

PROBLEM = replace(removable_knapsack({"A": [1, 2, 3], "B": [2, 3, 9]}, {"A": [1.0, 3.0, 4.0], "B": [2.0, 3.0, 9.0]}, 6))
PLAN = solve(PROBLEM, tolerance=0.0)


def test_totals_are_sums_of_table_entries() -> None:
    totals = evaluate(PROBLEM, {"A": 2, "B": 3})
    assert (totals.value, totals.latency_ns) == (12.0, 11)
    assert evaluate(PROBLEM, {"A": 0, "B": 3}, removed=["stage A"]).latency_ns == 9


@pytest.mark.parametrize(
    ("corruption", "message"),
    [
        ({"value": PLAN.value + 1}, "value is"),
        ({"latency_ns": PLAN.latency_ns - 1}, "latency is"),
        ({"other_costs": {"size_bytes": 1}}, "other costs are"),
        ({"bound": PLAN.value - 1}, "below the value"),
        ({"gap": 0.5}, "gap is"),
        ({"status": "great"}, "unknown status"),
        ({"status": "infeasible"}, "with widths"),
        ({"widths": {"A": 3}}, "without a width"),
        ({"widths": {"A": 3, "B": 7}}, "not offered"),
        ({"widths": {"A": 3, "B": 2, "C": 1}}, "without a group"),
        ({"widths": {"A": 3, "B": 3}, "value": 13.0, "latency_ns": 12, "bound": 13.0}, "over the budget"),
        ({"removed": ("stage A",)}, "inside a removed stage"),
        ({"removed": ("stage C",)}, "may not be removed"),
        ({"patterns": {"C": "dense"}}, "unknown layers"),
        ({"patterns": {"A": "half"}}, "pattern half is not offered"),
    ],
)
def test_corrupted_plan_is_refused(corruption: dict[str, Any], message: str) -> None:
    check(PROBLEM, PLAN)
    with pytest.raises(PlanError, match=message):
        check(PROBLEM, replace(PLAN, **corruption))


def test_exceeding_another_budget_is_refused() -> None:
    problem = RandomProblem(5, num_groups=3, num_budgets=2, tightness=1.5).problem()
    plan = solve(problem)
    assert plan.found
    tight = replace(problem, other_budgets=(replace(problem.other_budgets[0], limit=plan.other_costs["b1"] - 1),))
    with pytest.raises(PlanError, match=r"b1: .* over the budget"):
        check(tight, plan)


def test_plans_without_widths_pass_when_they_say_so() -> None:
    check(PROBLEM, Plan(status="infeasible", solver="s"))
    check(PROBLEM, Plan(status="unknown", solver="s"))


def test_gap_is_relative_to_the_bound() -> None:
    assert relative_gap(10.0, 9.0) == pytest.approx(0.1)
    assert relative_gap(0.0, 0.0) == 0.0
    assert relative_gap(9.0, 10.0) == 0.0
