"""What a user asks of single layers."""

from typing import Any

import pytest

from pruning.groups import coupling_groups
from pruning.operators import operators
from pruning.trace import trace
from tests.builders import SHAPE, Chain
from workers.context import StepProblem
from workers.steps.conditions import conditions, patterns_on_offer


def asked(**job: Any) -> tuple[list[str], dict[str, int]]:
    network = trace(Chain((16, 24, 12)), SHAPE)
    groups = coupling_groups(network)
    return conditions(operators(network, groups), groups, {"keep_dense": [], "min_widths": {}, **job})


def test_layers_go_by_the_name_of_their_module_or_their_operator() -> None:
    assert asked(keep_dense=["two.0", "hidden", "two_0"])[0] == ["two_0", "hidden", "two_0"]
    assert asked(min_widths={"two.0": 5, "one_0": 7})[1] == {"two.0": 5, "one.0": 7}


def test_the_larger_of_two_least_widths_counts() -> None:
    assert asked(min_widths={"two.0": 5, "pool": 9})[1] == {"two.0": 9}


def test_every_fault_is_named_with_its_place() -> None:
    with pytest.raises(StepProblem) as refused:
        asked(keep_dense=["two.0", "three"], min_widths={"four": 1, "one.0": 17})
    assert refused.value.code == "bad_condition"
    assert [error["pointer"] for error in refused.value.errors] == [
        "/keep_dense/1", "/min_widths/four", "/min_widths/one.0"
    ]  # fmt: skip
    assert "has 16 channels: it cannot keep 17" in refused.value.errors[2]["detail"]


def test_the_head_has_no_width_to_ask_for() -> None:
    assert asked(min_widths={"head": 3})[1] == {}


def test_a_pattern_that_describes_nothing_is_named_with_its_place() -> None:
    with pytest.raises(StepProblem) as refused:
        patterns_on_offer({"patterns": "auto", "pattern_choices": ["64x1@1/4", "4:2", "64x1@3/2", "2:4v+16x6@1/2"]})
    assert refused.value.code == "bad_condition"
    assert [error["pointer"][-2:] for error in refused.value.errors] == ["/1", "/2", "/3"]


def test_without_masks_none_are_on_offer() -> None:
    assert patterns_on_offer({"patterns": "none", "pattern_choices": ["4:2"]}) == []
