"""The default solver against brute force, on graphs that split and on graphs that do not."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from subprocess import run
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench._shapes import resnet_problem
from pruning.check import check
from pruning.problem import Layer, Plan, Problem, WidthChoice, restrict, validate
from pruning.solve import close, least, solve, whole
from pruning.solve.answer import Run
from pruning.solve.blueprint import Blueprint
from pruning.solve.build import build_graph, graph_at
from pruning.solve.master import solve_master
from pruning.solve.order import DoesNotSplitError
from pruning.solve.price import Pricer
from pruning.solve.relax import narrowed, sharpest
from pruning.solve.totals import EXACT
from tests.unit.pruning.knapsacks import (
    RandomProblem,
    agrees,
    brute_force,
    knapsack,
    least_others,
    removable_knapsack,
)

problems = st.builds(
    lambda seed, num_groups, num_budgets, tightness: RandomProblem(
        seed, num_groups=num_groups, num_budgets=num_budgets, tightness=tightness
    ).problem(),
    seed=st.integers(0, 2**20),
    num_groups=st.integers(2, 4),
    num_budgets=st.integers(1, 3),
    tightness=st.sampled_from([0.5, 0.9, 1.3]),
)

concats = st.builds(
    lambda seed, num_groups, num_budgets, tightness: RandomProblem(
        seed, num_groups=num_groups, num_budgets=num_budgets, tightness=tightness, concats=True
    ).problem(),
    seed=st.integers(0, 2**20),
    num_groups=st.integers(2, 4),
    num_budgets=st.integers(1, 3),
    tightness=st.sampled_from([0.5, 0.9, 1.3]),
)


def limits() -> Run:
    return Run(solver="secateur", seed=0, tolerance=0.0, time_limit_s=30.0)


@contextmanager
def tiny_tables(entries: int) -> Iterator[None]:
    with (
        patch.object(whole, "ROUND_ENTRIES", (entries, 2 * entries)),
        patch.object(whole, "WINDOW_ENTRIES", entries),
        patch.object(least, "CEILING", entries),
        patch.object(least, "EXACT_ENTRIES", entries),
    ):
        yield


@given(problem=problems)
@settings(max_examples=300, deadline=None)
def test_solver_equals_brute_force(problem: Problem) -> None:
    validate(problem)
    plan = solve(problem, tolerance=0.0)
    check(problem, plan)
    best, least_ns = brute_force(problem)
    assert agrees(plan, best)
    assert plan.min_achievable_proven
    assert (plan.min_achievable_ns, plan.other_min_achievable) == (least_ns, least_others(problem))


@given(problem=problems)
@settings(max_examples=60, deadline=None)
def test_close_over_columns_equals_brute_force(problem: Problem) -> None:
    # Narrow searches and small pieces leave the work to CP-SAT.
    with patch.object(close, "SEARCHES", ((1, False),)), patch.object(close, "PIECE_WIDTH", 3):
        plan = solve(problem, tolerance=0.0)
    check(problem, plan)
    assert agrees(plan, brute_force(problem)[0])


@given(problem=concats, entries=st.sampled_from([40, 200, 1000]))
@settings(max_examples=150, deadline=None)
def test_graphs_that_do_not_split_equal_brute_force(problem: Problem, entries: int) -> None:
    # Ceilings of a few table entries stand for graphs that are larger than any ceiling.
    with tiny_tables(entries):
        plan = whole.solve_whole(problem, build_graph(problem), limits())
    check(problem, plan)
    best, least_ns = brute_force(problem)
    assert agrees(plan, best)
    assert plan.min_achievable_ns >= least_ns
    if plan.min_achievable_proven:
        assert (plan.min_achievable_ns, plan.other_min_achievable) == (least_ns, least_others(problem))


@given(problem=concats, entries=st.sampled_from([40, 200, 1000]))
@settings(max_examples=150, deadline=None)
def test_blurred_totals_only_raise_the_bound(problem: Problem, entries: int) -> None:
    best, least_ns = brute_force(problem)
    widths = {group.id: group.widths[-1] for group in problem.groups}
    try:
        pricer = sharpest(problem, widths, entries)
    except DoesNotSplitError:
        return
    master = solve_master(pricer, limits())
    assert best is None or master.bound * pricer.graph.unit >= best - 1e-9
    assert master.least[0] + problem.fixed_latency_ns <= least_ns


@given(problem=concats, level=st.integers(0, EXACT))
@settings(max_examples=150, deadline=None)
def test_one_total_for_many_is_never_dearer_or_worth_less(problem: Problem, level: int) -> None:
    blueprint = Blueprint(problem)
    graph = graph_at(blueprint, dict.fromkeys(blueprint.concats, level))
    pricer, exact = Pricer(graph), Pricer(build_graph(problem))
    assert graph.exact == (level == EXACT or not blueprint.concats)
    for multipliers in (np.zeros(len(graph.limits)), np.ones(len(graph.limits))):
        assert pricer.price(multipliers).best >= exact.price(multipliers).best * (1 - 1e-12)


@given(problem=concats)
@settings(max_examples=100, deadline=None)
def test_fixing_keeps_every_better_plan(problem: Problem) -> None:
    best, _ = brute_force(problem)
    if best is None:
        return
    pricer = Pricer(build_graph(problem))
    multipliers = solve_master(pricer, limits()).multipliers
    through = pricer.best_through(pricer.price(multipliers))
    offset = float(multipliers @ pricer.graph.limits)
    least = best / pricer.graph.unit - offset - 1e-9 * (abs(offset) + best / pricer.graph.unit)
    assert agrees(solve(narrowed(problem, pricer.graph, through, least), tolerance=0.0), best)


@given(problem=problems)
@settings(max_examples=60, deadline=None)
def test_a_tolerance_is_kept_and_bounds_sandwich_the_optimum(problem: Problem) -> None:
    plan = solve(problem, tolerance=0.05)
    best, _ = brute_force(problem)
    if best is not None:
        assert plan.status == "optimal"
        assert plan.gap <= 0.05
        assert plan.value <= best + 1e-9 <= plan.bound + 2e-9


def test_joint_tables_see_what_narrowing_saves_in_the_consumer() -> None:
    # Narrowing a saves nothing itself but makes its consumer b four times cheaper: the linearised cost is blind to it.
    problem = Problem(
        groups=(WidthChoice(id="a", widths=(1, 2)), WidthChoice(id="b", widths=(1, 2))),
        layers=(
            Layer(name="a", output="a", value=np.zeros((1, 1, 2)), latency_ns=np.array([[[1, 1]]])),
            Layer(
                name="b", inputs=("a",), output="b", value=np.zeros((1, 2, 2)), latency_ns=np.array([[[1, 2], [4, 8]]])
            ),
        ),
        group_value={"a": np.array([5.0, 6.0]), "b": np.array([1.0, 9.0])},
        budget_ns=3,
    )
    plan = solve(problem, tolerance=0.0)
    assert plan.widths == {"a": 1, "b": 2}
    assert (plan.value, plan.latency_ns, plan.status) == (14.0, 3, "optimal")


def test_precedence_is_not_served_greedily() -> None:
    plan = solve(removable_knapsack({"A": [4, 5], "B": [2]}, {"A": [8.0, 15.0], "B": [12.0]}, 5), tolerance=0.0)
    assert plan.value == 15.0
    assert plan.removed == ("stage B",)


def test_an_item_dearer_than_the_capacity_is_left_out() -> None:
    plan = solve(removable_knapsack({"A": [9, 99], "B": [2]}, {"A": [8.0, 15.0], "B": [1.0]}, 5), tolerance=0.0)
    assert plan.widths == {"A": 0, "B": 1}


def test_plan_is_never_over_budget_when_nothing_may_be_removed() -> None:
    plan = solve(knapsack({"A": [1, 2], "B": [1]}, {"A": [20.0, 39.0], "B": [2.0]}, 2), tolerance=0.0)
    assert plan.widths == {"A": 1, "B": 1}
    assert plan.latency_ns == 2


def test_infeasible_says_the_least_of_every_budget() -> None:
    problem = RandomProblem(3, num_groups=3, num_budgets=2, tightness=1.0).problem()
    late = solve(replace(problem, budget_ns=0))
    assert late.status == "infeasible"
    assert late.widths == {}
    assert late.min_achievable_ns == brute_force(problem)[1]
    assert set(late.other_min_achievable) == {"b1"}
    assert solve(replace(problem, budget_ns=late.min_achievable_ns, other_budgets=())).status == "optimal"


def test_min_widths_and_frozen_layers_are_kept() -> None:
    problem = resnet_problem("resnet50", 4, 2, 0.3)
    narrow = solve(problem)
    kept = solve(restrict(problem, min_widths={"layer2": 400}, frozen=["layer3.1.conv2"]))
    assert narrow.widths["layer2"] < 400 <= kept.widths["layer2"]
    assert kept.widths["layer3.1.conv1"] == kept.widths["layer3.1.conv2"] == 256
    assert "layer3.1" not in kept.removed
    assert kept.value <= narrow.bound
    check(problem, kept)


def test_restrict_refuses_what_is_not_there() -> None:
    problem = knapsack({"A": [1]}, {"A": [1.0]}, 1)
    with pytest.raises(ValueError, match="not in this problem: nope"):
        restrict(problem, frozen=["nope"])
    with pytest.raises(ValueError, match="above the dense width: A"):
        restrict(problem, min_widths={"A": 2})


def test_large_network_is_certified_and_repeats() -> None:
    problem = resnet_problem("resnet50", 8, 3, 0.3)
    plans = [solve(problem, seed=7) for _ in range(2)]
    check(problem, plans[0])
    assert plans[0].status == "optimal"
    assert plans[0].gap <= 1e-3
    assert _without_time(plans[0]) == _without_time(plans[1])


def _without_time(plan: Plan) -> Plan:
    return replace(plan, seconds=0.0)


def test_long_concat_splits() -> None:
    # Thirty layers that each read every layer before them: sums of channels, not products of choices.
    random = np.random.default_rng(0)
    groups = tuple(WidthChoice(id=f"g{i}", widths=(8, 16, 24, 32)) for i in range(30))
    layers = []
    for i, group in enumerate(groups):
        counts = tuple(range(8 * i, 32 * i + 1, 8))
        num_in = len(counts) if i > 1 else 4 if i == 1 else 1
        value = random.random((1, 1, 4)).cumsum(axis=2).repeat(num_in, axis=1)
        layers.append(
            Layer(
                name=group.id,
                inputs=tuple(earlier.id for earlier in groups[:i]),
                output=group.id,
                value=value,
                latency_ns=random.integers(1, 100, (1, num_in, 4)).cumsum(axis=1).cumsum(axis=2),
                input_counts=counts if i > 1 else (),
                input_multiplicity=(1,) * i if i > 1 else (),
            )
        )
    dense = sum(int(layer.latency_ns[0, -1, -1]) for layer in layers)
    problem = Problem(groups=groups, layers=tuple(layers), group_value={}, budget_ns=dense // 3)
    plan = solve(problem)
    check(problem, plan)
    assert plan.status == "optimal"


def test_solver_needs_no_torch() -> None:
    code = "import sys, pruning.solve, pruning.check; sys.exit('torch' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("seed", "num_groups", "num_budgets", "tightness"),
    [(6, 4, 1, 0.5), (332732, 2, 1, 1.3), (268732, 2, 1, 0.9), (50086, 2, 2, 0.9)],
)
def test_a_close_that_a_presolve_once_cut_short_finds_the_optimum(
    seed: int, num_groups: int, num_budgets: int, tightness: float
) -> None:
    problem = RandomProblem(seed, num_groups=num_groups, num_budgets=num_budgets, tightness=tightness).problem()
    with patch.object(close, "SEARCHES", ((1, False),)), patch.object(close, "PIECE_WIDTH", 3):
        plan = solve(problem, tolerance=0.0)
    assert agrees(plan, brute_force(problem)[0])
