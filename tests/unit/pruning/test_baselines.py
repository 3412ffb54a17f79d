"""Uniform, random, threshold and plain CP-SAT plans."""

from dataclasses import replace

from bench._shapes import resnet_problem
from pruning.check import check
from pruning.problem import Problem
from pruning.solve import SOLVERS
from pruning.solve.baselines import magnitude, random, uniform
from tests.unit.pruning.knapsacks import knapsack


def test_uniform_takes_the_largest_fraction_that_fits() -> None:
    problem = knapsack({"A": [2, 4, 6, 8], "B": [1, 2]}, {"A": [1.0, 2.0, 3.0, 4.0], "B": [1.0, 2.0]}, 8)
    # Three quarters: A keeps 3 of 4 (6 ns), B the 1 of 2 that lies within (1 ns); dense would take 10 ns.
    plan = uniform(problem)
    assert plan.widths == {"A": 3, "B": 1}
    assert plan.latency_ns == 7


def test_magnitude_keeps_what_is_worth_the_threshold() -> None:
    problem = knapsack({"A": [1, 2, 3], "B": [1, 2, 3]}, {"A": [9.0, 16.0, 17.0], "B": [5.0, 7.0, 10.0]}, 4)
    # Steps are worth A: 7, 1 and B: 2, 2 (3 follows 2, so it counts as 2): at threshold 7 the plan takes 2 + 1 ns.
    assert magnitude(problem).widths == {"A": 2, "B": 1}


def test_random_repeats_with_its_seed_and_differs_without() -> None:
    problem = resnet_problem("resnet50", 8, 1, 0.5)
    assert random(problem, seed=1).widths == random(problem, seed=1).widths
    assert random(problem, seed=1).widths != random(problem, seed=2).widths


def test_every_named_solver_answers_under_its_name() -> None:
    problem = knapsack({"A": [1, 2], "B": [1, 3]}, {"A": [1.0, 2.0], "B": [1.0, 2.0]}, 3)
    for name, solver in SOLVERS.items():
        plan = solver(problem)
        check(problem, plan)
        assert plan.solver == name
        assert plan.found


def test_nothing_to_prune_is_a_plan_or_infeasible() -> None:
    problem = Problem(groups=(), layers=(), group_value={}, budget_ns=10, fixed_latency_ns=10)
    for solver in SOLVERS.values():
        assert solver(problem).status == "optimal"
        late = solver(replace(problem, budget_ns=9))
        assert (late.status, late.min_achievable_ns) == ("infeasible", 10)


def test_baselines_admit_that_they_found_nothing() -> None:
    problem = knapsack({"A": [2, 1], "B": [1, 2]}, {"A": [1.0, 2.0], "B": [2.0, 2.0]}, 2)
    # Only A wide and B narrow fits, which one common fraction does not reach.
    plan = uniform(problem)
    assert plan.status == "unknown"
    assert SOLVERS["cp_sat"](problem).widths == {"A": 2, "B": 1}
    assert uniform(knapsack({"A": [2]}, {"A": [1.0]}, 1)).status == "infeasible"
