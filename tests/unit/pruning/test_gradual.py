"""Budgets that fall from dense to the job's, masks that never open again, and the training in between."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lut.pattern import Pattern
from pruning.check import check, evaluate
from pruning.distill import FinetuneOptions
from pruning.gradual import Interval, followers, pinned, scheduled, train_interval
from pruning.network import Network
from pruning.problem import Budget, Layer, Problem, WidthChoice, offer
from pruning.solve import SOLVERS
from tests.unit.pruning.pictures import digits, trained

torch.set_num_threads(1)


def two_layers(values: dict[str, list[float]], budget_ns: int) -> Problem:
    """Return two layers that read the image, each of width 1 or 2, at 1 or 4 ns."""
    costs = np.array([[[1, 4]]])
    return Problem(
        groups=(WidthChoice(id="a", widths=(1, 2)), WidthChoice(id="b", widths=(1, 2))),
        layers=tuple(Layer(name=g, value=np.zeros((1, 1, 2)), latency_ns=costs, output=g) for g in "ab"),
        group_value={group: np.array(value) for group, value in values.items()},
        budget_ns=budget_ns,
        other_budgets=(Budget(id="bytes", limit=10, fixed=40),),
    )


@given(st.integers(1, 10**9), st.floats(0.01, 1), st.integers(2, 40))
def test_budgets_fall_by_one_ratio_and_end_at_the_job_s(dense_ns: int, share: float, num_steps: int) -> None:
    problem = two_layers({"a": [1, 2], "b": [1, 2]}, max(1, int(share * dense_ns)))
    dense = replace(evaluate(problem, {"a": 2, "b": 2}), latency_ns=dense_ns)
    found = [scheduled(problem, dense, step, num_steps) for step in range(1, num_steps + 1)]
    budgets = [dense_ns, *(one.budget_ns for one in found)]
    assert all(after <= before for before, after in pairwise(budgets))
    ratio = (problem.budget_ns / dense_ns) ** (1 / num_steps)
    assert all(after == pytest.approx(before * ratio, abs=2) for before, after in pairwise(budgets))
    assert found[-1] == problem
    assert found[0].other_budgets[0].limit == pytest.approx(40 ** (1 - 1 / num_steps) * 10 ** (1 / num_steps), abs=1)


@pytest.mark.parametrize("step", [0, 5])
def test_there_is_no_step_outside_the_schedule(step: int) -> None:
    problem = two_layers({"a": [1, 2], "b": [1, 2]}, 5)
    with pytest.raises(ValueError, match="not one of 4"):
        scheduled(problem, evaluate(problem, {"a": 2, "b": 2}), step, 4)


def test_halp_in_two_steps_is_what_the_paper_says_by_hand() -> None:
    # Dense 8 ns, budget 5 ns: C_1 = sqrt(8 * 5) = 6.3, so one of the two narrows at the first step, and for good.
    problem = replace(two_layers({"a": [1, 3], "b": [1, 2]}, 5), other_budgets=())
    dense = evaluate(problem, {"a": 2, "b": 2})
    halp = SOLVERS["halp"]
    first = scheduled(problem, dense, 1, 2)
    assert first.budget_ns == 6
    plan = halp(first)
    assert plan.widths == {"a": 2, "b": 1}
    # Scored anew, b would be the better one to keep: in one shot it is, in the schedule it is gone.
    rescored = replace(problem, group_value={"a": np.array([1.0, 1.5]), "b": np.array([1.0, 9.0])})
    assert halp(rescored).widths == {"a": 1, "b": 2}
    survived = offer(rescored, {"a": np.array([0, 1]), "b": np.array([0])})
    last = scheduled(survived, dense, 2, 2)
    plan = halp(last)
    check(last, plan)
    assert plan.widths == {"a": 2, "b": 1} and plan.latency_ns == last.budget_ns == 5


NAMES = ("64x1@1/2", "64x1@1/4", "32x1@1/2", "32x1@1/4", "48x1@1/8")


def test_followers_keep_fewer_weights_in_tiles_that_cut_up_those_before() -> None:
    found = followers([Pattern.parse(name) for name in NAMES])
    assert found["64x1@1/2"] == ("64x1@1/4", "32x1@1/4")
    assert found["32x1@1/2"] == ("32x1@1/4",)
    assert found["64x1@1/4"] == found["48x1@1/8"] == ()


def test_n_of_m_comes_before_tiles_and_stays() -> None:
    found = followers([Pattern.parse(name) for name in ("2:4", "2:4+16x16@1/2", "16x16@1/4")])
    assert found == {"2:4": ("2:4+16x16@1/2",), "2:4+16x16@1/2": (), "16x16@1/4": ()}


def test_a_masked_layer_never_goes_back_and_its_loss_is_a_fact() -> None:
    layer = Layer(
        name="one",
        value=np.array([0.0, -3.0, -7.0, -2.0])[:, None, None],
        latency_ns=np.array([9, 5, 3, 6])[:, None, None],
        patterns=("dense", "64x1@1/2", "64x1@1/4", "32x1@1/2"),
        other_costs={"bytes": np.array([8, 4, 2, 4])[:, None, None]},
    )
    other = replace(layer, name="two")
    problem = Problem(groups=(), layers=(layer, other), group_value={}, budget_ns=10)
    masked, free = pinned(problem, {"one": "64x1@1/2"}, followers([Pattern.parse(name) for name in NAMES])).layers
    assert free is other
    assert masked.patterns == ("64x1@1/2", "64x1@1/4")
    assert masked.value.flatten().tolist() == [0.0, -4.0]
    assert masked.latency_ns.flatten().tolist() == [5, 3]
    assert masked.other_costs["bytes"].flatten().tolist() == [4, 2]


@pytest.fixture(scope="module")
def network() -> Network:
    return trained(digits()[0], num_epochs=3)


def interval(network: Network, step: int = 1, num_batches: int = 3, **options: Any) -> Interval:
    train, held = digits()
    settings: dict[str, Any] = {"batch_size": 16, "learning_rates": (1e-3,), "precision": "fp32", "flip": False}
    weight = network.module.get_submodule("conv2").weight
    assert isinstance(weight, torch.Tensor)
    masks = {"conv2": torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.5}
    options = {**settings, "mask_mode": "ste", **options}
    return train_interval(
        network, network, train, held, FinetuneOptions(**options), masks, num_batches=num_batches, step=step
    )


def test_an_interval_is_a_function_of_its_step_and_each_step_sees_other_images(network: Network) -> None:
    one, again, other = interval(network), interval(network), interval(network, step=2)
    assert one.losses == again.losses and len(one.losses) == 3
    assert one.losses != other.losses


def test_weights_behind_the_mask_learn_and_the_network_that_came_in_does_not(network: Network) -> None:
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    after = interval(network).network.module.state_dict()
    moved = after["conv2.weight"] != before["conv2.weight"]
    assert bool(moved.all()), "in straight-through training masked weights move too"
    assert all(torch.equal(value, before[name]) for name, value in network.module.state_dict().items())


def test_a_loss_that_is_not_finite_leaves_the_network_as_it_was(network: Network) -> None:
    found = interval(network, num_batches=12, learning_rates=(1e30,))
    assert not math.isfinite(found.losses[-1]) and len(found.losses) < 12
    state = network.module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in found.network.module.state_dict().items())


def test_rate_and_precision_are_settled_where_the_options_leave_them_open(network: Network) -> None:
    found = interval(network, learning_rates=(1e-4, 1e-3), precision="auto", range_steps=3)
    assert found.learning_rate in (1e-4, 1e-3) and found.precision in ("fp32", "bf16")
