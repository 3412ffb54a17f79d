"""Problems at the edges: budgets that contradict each other, extreme numbers, ties, long chains, wide concatenations."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench._shapes import resnet_problem
from pruning.check import check
from pruning.problem import Budget, Layer, Problem, WidthChoice, restrict
from pruning.solve import SOLVERS, solve
from tests.unit.pruning.knapsacks import RandomProblem, agrees, brute_force, knapsack, least_others

problems = st.builds(
    lambda seed, num_budgets, concats: RandomProblem(
        seed, num_groups=3, num_budgets=num_budgets, tightness=1.1, concats=concats
    ).problem(),
    seed=st.integers(0, 2**20),
    num_budgets=st.integers(1, 3),
    concats=st.booleans(),
)


def with_values(problem: Problem, change: Callable[[np.ndarray], np.ndarray]) -> Problem:
    return replace(
        problem,
        group_value={group: change(value) for group, value in problem.group_value.items()},
        layers=tuple(replace(layer, value=change(layer.value)) for layer in problem.layers),
    )


def with_costs(problem: Problem, change: Callable[[np.ndarray], np.ndarray]) -> Problem:
    layers = (
        replace(
            layer,
            latency_ns=change(layer.latency_ns),
            other_costs={b: change(cost) for b, cost in layer.other_costs.items()},
        )
        for layer in problem.layers
    )
    return replace(problem, layers=tuple(layers))


EXTREMES: dict[str, Callable[[Problem], Problem]] = {
    "huge values": lambda p: with_values(p, lambda value: value * 1e290),
    "tiny values": lambda p: with_values(p, lambda value: value * 1e-290),
    "no value at all": lambda p: with_values(p, np.zeros_like),
    "values below zero": lambda p: with_values(p, lambda value: value - 30),
    "ties everywhere": lambda p: with_values(p, np.ones_like),
    "no cost at all": lambda p: with_costs(p, np.zeros_like),
    "costs below zero": lambda p: replace(with_costs(p, lambda cost: cost - 25), budget_ns=p.budget_ns // 8),
    "huge costs": lambda p: replace(with_costs(p, lambda cost: cost * 10**12), budget_ns=p.budget_ns * 10**12),
    "budget of nothing": lambda p: replace(p, budget_ns=0),
    "budget beyond counting": lambda p: replace(p, budget_ns=10**40),
    "budget far below zero": lambda p: replace(p, budget_ns=-(10**40)),
}


@pytest.mark.parametrize("extreme", EXTREMES)
@given(problem=problems)
@settings(max_examples=15, deadline=None)
def test_extreme_numbers_equal_brute_force(extreme: str, problem: Problem) -> None:
    problem = EXTREMES[extreme](problem)
    plan = solve(problem, tolerance=0.0)
    check(problem, plan)
    best, least_ns = brute_force(problem)
    assert plan.min_achievable_ns == least_ns
    assert plan.found == (best is not None)
    if best is not None:
        # Values of any size: agreement is relative.
        assert plan.value == pytest.approx(best, rel=1e-9, abs=0.0)
        assert plan.status == "optimal"


@given(problem=problems, extreme=st.sampled_from(sorted(EXTREMES)), name=st.sampled_from(sorted(SOLVERS)))
@settings(max_examples=100, deadline=None)
def test_no_solver_fails_on_extreme_numbers(problem: Problem, extreme: str, name: str) -> None:
    problem = EXTREMES[extreme](problem)
    check(problem, SOLVERS[name](problem))


@given(problem=problems, data=st.data())
@settings(max_examples=100, deadline=None)
def test_minimum_widths_and_frozen_layers_equal_brute_force(problem: Problem, data: st.DataObject) -> None:
    chosen = st.lists(st.sampled_from(problem.groups), max_size=2, unique_by=lambda group: group.id)
    minimum = {group.id: data.draw(st.sampled_from(group.widths)) for group in data.draw(chosen)}
    frozen = data.draw(st.lists(st.sampled_from([layer.name for layer in problem.layers]), max_size=2))
    kept = restrict(problem, min_widths=minimum, frozen=frozen)
    plan = solve(kept, tolerance=0.0)
    check(kept, plan)
    check(replace(problem, stages=kept.stages), plan)
    best, least_ns = brute_force(kept)
    assert agrees(plan, best)
    assert plan.min_achievable_ns == least_ns
    dense = {group.id: group.widths[-1] for group in problem.groups}
    for layer in problem.layers:
        if plan.found and layer.name in frozen:
            assert all(plan.widths[g] == dense[g] for g in (*layer.inputs, layer.output) if g is not None)
            assert plan.patterns.get(layer.name, "dense") == "dense"


def test_budgets_that_contradict_each_other_are_infeasible_with_the_least_of_each() -> None:
    # On device A the narrow layer is fast, on device B the wide one: 1 and 1 are reached, but not by one network.
    layer = Layer(
        name="l",
        output="g",
        value=np.zeros((1, 1, 2)),
        latency_ns=np.array([[[1, 9]]]),
        other_costs={"latency_ns:B": np.array([[[9, 1]]])},
    )
    problem = Problem(
        groups=(WidthChoice(id="g", widths=(1, 2)),),
        layers=(layer,),
        group_value={"g": np.array([1.0, 2.0])},
        budget_ns=5,
        other_budgets=(Budget(id="latency_ns:B", limit=5),),
    )
    plan = solve(problem)
    assert plan.status == "infeasible"
    assert (plan.min_achievable_ns, plan.other_min_achievable) == (1, {"latency_ns:B": 1})
    assert solve(replace(problem, budget_ns=9)).widths == {"g": 2}


@given(problem=problems)
@settings(max_examples=100, deadline=None)
def test_each_least_cost_is_met_alone(problem: Problem) -> None:
    plan = solve(problem)
    alone = replace(problem, budget_ns=plan.min_achievable_ns, other_budgets=())
    assert solve(alone).status == "optimal"
    assert solve(replace(alone, budget_ns=plan.min_achievable_ns - 1)).status == "infeasible"
    assert plan.other_min_achievable == least_others(problem)


def test_two_devices_and_bytes_together_are_certified() -> None:
    problem = resnet_problem("resnet50", 8, 3, 0.4, several=True)
    plan = solve(problem)
    check(problem, plan)
    assert plan.status == "optimal"
    assert plan.gap <= 1e-3


def test_a_chain_of_a_thousand_groups_is_certified() -> None:
    random = np.random.default_rng(0)
    groups = tuple(WidthChoice(id=f"g{i}", widths=(1, 2, 3)) for i in range(1000))
    layers = tuple(
        Layer(
            name=group.id,
            inputs=(groups[i - 1].id,) if i else (),
            output=group.id,
            value=np.zeros((1, 3 if i else 1, 3)),
            latency_ns=random.integers(1, 100, (1, 3 if i else 1, 3)),
        )
        for i, group in enumerate(groups)
    )
    value = {group.id: random.random(3).cumsum() for group in groups}
    problem = Problem(groups=groups, layers=layers, group_value=value, budget_ns=40_000)
    plan = solve(problem)
    check(problem, plan)
    assert plan.status == "optimal"


def test_a_concat_of_a_thousand_groups_needs_no_deep_recursion() -> None:
    groups = tuple(WidthChoice(id=f"g{i}", widths=(1, 2)) for i in range(1000))
    counts = tuple(range(1000, 2001))
    layer = Layer(
        name="cat",
        inputs=tuple(group.id for group in groups),
        value=np.zeros((1, len(counts), 1)),
        latency_ns=np.array(counts)[None, :, None],
        input_counts=counts,
        input_multiplicity=(1,) * len(groups),
    )
    value = {group.id: np.array([1.0, 2.0]) for group in groups}
    plan = solve(Problem(groups=groups, layers=(layer,), group_value=value, budget_ns=1500))
    assert (plan.status, plan.value) == ("optimal", 1500.0)


def test_one_group_of_one_width_is_kept_or_infeasible() -> None:
    problem = knapsack({"A": [3]}, {"A": [1.0]}, 3)
    assert solve(problem).widths == {"A": 1}
    assert solve(replace(problem, budget_ns=2)).status == "infeasible"


def test_sums_that_float_cannot_hold_are_refused() -> None:
    problem = knapsack({"A": [3], "B": [3]}, {"A": [1.0], "B": [1.0]}, 3)
    with pytest.raises(ValueError, match="latency_ns: costs are too large"):
        solve(with_costs(problem, lambda cost: cost * 2**52))
    with pytest.raises(ValueError, match="values are too large"):
        solve(with_values(problem, lambda value: value + 1.5e308))
