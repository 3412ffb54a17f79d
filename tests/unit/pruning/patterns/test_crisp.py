"""The paper's own allocation as a solver: one density, closed in on by the tables' latency."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lut.pattern import Pattern
from pruning.check import check
from pruning.patterns.crisp import crisp
from pruning.problem import Layer, Problem
from pruning.solve import solve

PATTERNS = ("dense", "4x1@1/2", "4x1@1/4", "2x1@1/2")


def layer(name: str, dense_ns: int = 100, patterns: tuple[str, ...] = PATTERNS) -> Layer:
    shares = [Fraction(1) if one == "dense" else Pattern.parse(one).share for one in patterns]
    cost = np.array([int(share * dense_ns) for share in shares])[:, None, None]
    value = np.array([float(share) - 1 for share in shares])[:, None, None]
    return Layer(name=name, value=value, latency_ns=cost, patterns=patterns)


def problem(budget_ns: int, *layers: Layer) -> Problem:
    return Problem(groups=(), layers=layers, group_value={}, budget_ns=budget_ns)


FLAT, STEEP = torch.ones(4, 8), torch.tensor([[64.0, 7, 6, 5, 4, 3, 2, 1]]).repeat(4, 1)


def test_the_layer_whose_columns_carry_least_is_masked_first() -> None:
    plan = crisp(problem(150, layer("flat"), layer("steep")), weights={"flat": FLAT, "steep": STEEP}, floor=0.0)
    assert plan.patterns == {"flat": "dense", "steep": "4x1@1/2"}
    plan = crisp(problem(125, layer("flat"), layer("steep")), weights={"flat": FLAT, "steep": STEEP}, floor=0.0)
    assert plan.patterns == {"flat": "dense", "steep": "4x1@1/4"}


@settings(max_examples=25, deadline=None)
@given(st.integers(50, 220), st.integers(0, 9))
def test_every_plan_obeys_its_problem_and_is_no_better_than_the_best(budget_ns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.rand(8, 8, generator=generator) ** 3 for name in ("one", "two")}
    asked = problem(budget_ns, layer("one"), layer("two"))
    plan = crisp(asked, weights=weights, floor=0.0)
    check(asked, plan)
    assert plan.found and plan.value <= solve(asked).value + 1e-9
    assert plan.solver == "crisp" and "2x1@1/2" not in plan.patterns.values(), "all tiles have one size"


def test_what_cannot_be_kept_is_unknown_and_the_bound_says_so() -> None:
    plan = crisp(problem(10, layer("flat")), weights={"flat": FLAT}, floor=0.0)
    assert not plan.found


@pytest.mark.parametrize(("floor", "expected"), [(0.0, "4x1@1/4"), (0.5, "4x1@1/2")])
def test_the_floor_holds_for_each_layer(floor: float, expected: str) -> None:
    plan = crisp(problem(50 if floor else 25, layer("flat")), weights={"flat": FLAT}, floor=floor)
    assert plan.patterns == {"flat": expected}


def test_a_layer_that_is_masked_already_takes_what_is_left_on_offer() -> None:
    masked = layer("flat", patterns=("4x1@1/2", "4x1@1/4"))
    plan = crisp(problem(150, masked, layer("steep")), weights={"flat": FLAT, "steep": STEEP}, floor=0.0)
    assert plan.patterns == {"flat": "4x1@1/2", "steep": "dense"}


def test_without_patterns_on_offer_the_dense_network_is_all_there_is() -> None:
    alone = replace(layer("flat"), patterns=("dense",), value=np.zeros((1, 1, 1)), latency_ns=np.full((1, 1, 1), 100))
    assert crisp(problem(100, alone), weights={"flat": FLAT}, floor=0.0).found
    assert not crisp(problem(99, alone), weights={"flat": FLAT}, floor=0.0).found
