"""A problem whose tables do not fit is named, not solved."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pruning.problem import Layer, Plan, Problem, Stage, WidthChoice, reachable_counts, validate
from pruning.solve import solve

GROUPS = (WidthChoice(id="a", widths=(1, 2)), WidthChoice(id="b", widths=(2, 4)))
LAYER = Layer(
    name="cat",
    inputs=("a", "b"),
    value=np.zeros((1, 4, 1)),
    latency_ns=np.array([[[5], [6], [7], [8]]]),
    input_counts=(5, 6, 7, 8),
    input_multiplicity=(1, 1),
    input_fixed=2,
)
PROBLEM = Problem(groups=GROUPS, layers=(LAYER,), group_value={"a": np.array([0.0, 1.0])}, budget_ns=6)


def test_several_inputs_are_indexed_by_their_total() -> None:
    validate(PROBLEM)
    assert reachable_counts(PROBLEM, LAYER) == {5, 6, 7, 8}
    assert solve(PROBLEM).widths == {"a": 2, "b": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": ("a", "c")}, "unknown group c"),
        ({"inputs": ("a", "a")}, "comes twice"),
        ({"input_multiplicity": (1,)}, "one multiplicity per input"),
        ({"input_counts": (5, 6, 7, 9)}, "lacks 8"),
        ({"value": np.zeros((1, 3, 1))}, "has shape"),
        ({"value": np.full((1, 4, 1), np.nan)}, "not finite"),
        ({"patterns": ("dense", "half")}, "has shape"),
        ({"latency_ns": np.zeros((1, 4, 1))}, "rounded up"),
    ],
)
def test_layer_that_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"layer cat: .*{message}"):
        solve(replace(PROBLEM, layers=(replace(LAYER, **change),)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": (*GROUPS, GROUPS[0])}, "two of one group id"),
        ({"groups": (GROUPS[0], replace(GROUPS[1], widths=(4, 2)))}, "ascending"),
        ({"group_value": {"a": np.zeros(3)}}, "group value a"),
        ({"stages": (Stage(id="s", layers=("nope",)),)}, "layer nope is unknown"),
        ({"stages": (Stage(id="s", layers=(), groups=("a",)),)}, "layer cat outside it touches its group a"),
    ],
)
def test_problem_that_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve(replace(PROBLEM, **change))


def test_a_layer_that_is_named_dense_is_no_choice() -> None:
    plans = [
        Plan(status="optimal", solver="-", widths={"a": 4}, patterns=patterns)
        for patterns in ({}, {"l": "dense"}, {"l": "2:4"})
    ]
    assert plans[0].choice == plans[1].choice != plans[2].choice
