"""The published solver: its defects shown, its crashes and overruns gone."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bench._shapes import resnet_problem
from pruning.check import check
from pruning.solve import SOLVERS, solve
from pruning.solve.halp import halp
from tests.unit.pruning.knapsacks import RandomProblem, knapsack, removable_knapsack


def test_linear_cost_leaves_budget_unused_and_value_behind() -> None:
    problem = resnet_problem("resnet50", 8, 1, 0.3)
    plan = halp(problem)
    check(problem, plan)
    assert plan.latency_ns < 0.8 * problem.budget_ns
    assert plan.value < 0.8 * solve(problem).value


def test_precedence_is_greedy_as_published() -> None:
    problem = removable_knapsack({"A": [4, 5], "B": [2]}, {"A": [8.0, 15.0], "B": [12.0]}, 5)
    plan = halp(problem)
    check(problem, plan)
    assert plan.value == 12.0
    assert plan.bound >= 15.0


def test_an_item_dearer_than_the_capacity_is_skipped() -> None:
    problem = removable_knapsack({"A": [9, 99], "B": [2]}, {"A": [8.0, 15.0], "B": [1.0]}, 5)
    assert halp(problem).widths == {"A": 0, "B": 1}


def test_budget_holds_when_every_layer_keeps_a_step() -> None:
    plan = halp(knapsack({"A": [1, 2], "B": [1]}, {"A": [20.0, 39.0], "B": [2.0]}, 2))
    assert plan.widths == {"A": 1, "B": 1}
    assert plan.latency_ns == 2


def test_negative_contributions_are_taken() -> None:
    # The second step of A makes it faster: a staircase that falls.
    plan = halp(knapsack({"A": [5, 3], "B": [1, 3]}, {"A": [1.0, 2.0], "B": [1.0, 2.0]}, 6))
    assert plan.widths["A"] == 2
    assert plan.latency_ns == 4


@given(
    seed=st.integers(0, 2**20),
    name=st.sampled_from(sorted(set(SOLVERS) - {"cp_sat"})),
    num_budgets=st.integers(1, 3),
    tightness=st.sampled_from([0.2, 0.9, 1.3]),
)
@settings(max_examples=200, deadline=None)
def test_no_named_solver_crashes_or_exceeds_a_budget(seed: int, name: str, num_budgets: int, tightness: float) -> None:
    problem = RandomProblem(seed, num_groups=3, num_budgets=num_budgets, tightness=tightness).problem()
    plan = SOLVERS[name](problem, seed=seed)
    check(problem, plan)
    if plan.found:
        assert plan.value <= solve(problem, tolerance=0.0).value + 1e-9
        assert plan.bound >= solve(problem, tolerance=0.0).value - 1e-9


def test_dynamic_program_without_items_keeps_nothing() -> None:
    plan = halp(knapsack({"A": [3]}, {"A": [1.0]}, 3))
    assert plan.widths == {"A": 1}
    assert np.isclose(plan.gap, 0.0)
