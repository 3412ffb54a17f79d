"""One certified plan per budget, and more budget never means less value."""

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench._shapes import resnet_problem
from pruning.check import check
from pruning.problem import Problem
from pruning.solve import close, frontier, solve
from tests.unit.pruning.knapsacks import RandomProblem, agrees, brute_force, knapsack

problems = st.builds(
    lambda seed, concats: RandomProblem(seed, num_groups=3, num_budgets=2, tightness=1.3, concats=concats).problem(),
    seed=st.integers(0, 2**20),
    concats=st.booleans(),
)


@given(problem=problems, budgets=st.lists(st.integers(0, 300), max_size=5))
@settings(max_examples=60, deadline=None)
def test_every_plan_of_a_frontier_equals_brute_force(problem: Problem, budgets: list[int]) -> None:
    plans = frontier(problem, budgets, tolerance=0.0)
    assert len(plans) == len(budgets)
    for budget_ns, plan in zip(budgets, plans, strict=True):
        part = replace(problem, budget_ns=budget_ns)
        check(part, plan)
        assert agrees(plan, brute_force(part)[0])


@given(problem=problems, budgets=st.lists(st.integers(0, 300), min_size=2, max_size=5))
@settings(max_examples=60, deadline=None)
def test_more_budget_never_means_less_value_or_a_lower_bound(problem: Problem, budgets: list[int]) -> None:
    # Searches that find next to nothing: plans must come from their neighbours.
    with patch.object(close, "SEARCHES", ((1, False),)), patch.object(close, "PIECE_WIDTH", 0):
        plans = frontier(problem, sorted(budgets), tolerance=0.5)
    found = [plan for plan in plans if plan.found]
    assert [plan.value for plan in found] == sorted(plan.value for plan in found)
    assert [plan.bound for plan in found] == sorted(plan.bound for plan in found)
    for budget_ns, plan in zip(sorted(budgets), plans, strict=True):
        check(replace(problem, budget_ns=budget_ns), plan)


def test_a_frontier_is_what_solving_each_budget_gives() -> None:
    problem = resnet_problem("resnet50", 8, 2, 1.0)
    budgets = [int(share * problem.budget_ns) for share in np.linspace(0.1, 1.0, 6)]
    for budget_ns, plan in zip(budgets, frontier(problem, budgets), strict=True):
        alone = solve(replace(problem, budget_ns=budget_ns))
        assert plan.status == alone.status == "optimal"
        assert plan.value == pytest.approx(alone.value, rel=1e-3)


def test_budgets_keep_their_order_and_too_small_ones_are_infeasible() -> None:
    plans = frontier(knapsack({"A": [2, 4]}, {"A": [1.0, 2.0]}, 0), [4, 1, 2])
    assert [plan.status for plan in plans] == ["optimal", "infeasible", "optimal"]
    assert [plan.widths for plan in plans] == [{"A": 2}, {}, {"A": 1}]
    assert plans[1].min_achievable_ns == 2
    assert frontier(knapsack({"A": [2]}, {"A": [1.0]}, 0), []) == ()
