"""From operators, saliency and a latency table to the knapsack."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from lut.profile import DeviceProfile
from lut.request import GridRequest
from lut.table import Entry, LatencyTable, LutMiss
from pruning.check import evaluate
from pruning.export import to_onnx, weight_bytes
from pruning.groups import coupling_groups
from pruning.network import CouplingGroup, Network, Operator
from pruning.operators import operators
from pruning.predict import predicted_us
from pruning.slim import slim
from pruning.tables import (
    best_units,
    build_problem,
    grid_requests,
    group_values,
    latency_limit,
    weight_bytes_limit,
    width_choices,
)
from pruning.trace import trace
from tests.builders import SHAPE, Chain

PROFILE = DeviceProfile(hardware="test", runtime="none", runtime_version="0", threads=1, batch=1)
EMPTY = LatencyTable(profile=PROFILE, entries={}, step=4)


def cost_us(c_in: int, c_out: int) -> float:
    """A plane, so that interpolation is exact."""
    return 3.0 + 0.5 * c_in + 0.25 * c_out


def table(requests: list[GridRequest]) -> LatencyTable:
    entries = {
        request.signature: {
            pair: Entry(p50_us=cost_us(*pair), p90_us=cost_us(*pair), num_samples=9) for pair in request.pairs()
        }
        for request in requests
    }
    return LatencyTable(profile=PROFILE, entries=entries, step=4, operator_offset_us=7.0)


@pytest.fixture
def chain() -> tuple[Network, tuple[CouplingGroup, ...], tuple[Operator, ...]]:
    net = trace(Chain((16, 24, 12)), SHAPE)
    groups = coupling_groups(net)
    return net, groups, operators(net, groups)


Parts = tuple[Network, tuple[CouplingGroup, ...], tuple[Operator, ...]]


def test_the_problem_costs_what_the_table_says_at_any_widths(chain: Parts) -> None:
    _, groups, costs = chain
    choices = width_choices(groups, EMPTY)
    measured = table(grid_requests(costs, choices))
    values = group_values({g.id: np.ones(g.units) for g in groups}, choices)
    problem = build_problem(costs, choices, values, latency_limit(measured, 10**9))
    rng = np.random.default_rng(0)
    for _ in range(20):
        widths = {group: int(rng.choice(offered)) for group, offered in choices.items()}
        totals = evaluate(problem, widths)
        assert totals.latency_ns == pytest.approx(1000 * predicted_us(costs, widths, measured), abs=len(costs) + 1)
        assert totals.value == pytest.approx(sum(widths.values()))


def test_a_correction_multiplies_every_latency(chain: Parts) -> None:
    _, groups, costs = chain
    choices = width_choices(groups, EMPTY)
    measured = table(grid_requests(costs, choices))
    values = group_values({g.id: np.ones(g.units) for g in groups}, choices)
    dense = {group: offered[-1] for group, offered in choices.items()}
    once, twice = (
        evaluate(build_problem(costs, choices, values, latency_limit(measured, 1, c)), dense).latency_ns
        for c in (1.0, 2.0)
    )
    assert twice == pytest.approx(2 * once, abs=len(costs) + 1)


def test_latency_is_rounded_up_to_whole_nanoseconds(chain: Parts) -> None:
    _, groups, costs = chain
    choices = width_choices(groups, EMPTY)
    measured = table(grid_requests(costs, choices))
    values = group_values({g.id: np.ones(g.units) for g in groups}, choices)
    problem = build_problem(costs, choices, values, latency_limit(measured, 1, 1 / 3))
    dense = {group: offered[-1] for group, offered in choices.items()}
    assert evaluate(problem, dense).latency_ns >= 1000 * predicted_us(costs, dense, measured) / 3


@pytest.mark.parametrize("offset_us", [5.0, -3.0, -1e6])
def test_a_budget_keeps_the_networks_the_table_tells_to_keep_it_whatever_its_offset(
    chain: Parts, offset_us: float
) -> None:
    _, groups, costs = chain
    choices = width_choices(groups, EMPTY)
    measured = replace(table(grid_requests(costs, choices)), operator_offset_us=offset_us)
    values = group_values({g.id: np.ones(g.units) for g in groups}, choices)
    each = [dict(zip(choices, widths, strict=True)) for widths in product(*choices.values())]
    told_us = [predicted_us(costs, widths, measured) for widths in each]
    assert min(told_us) > 0
    for budget_us in told_us:
        budget_ns = round(1000 * budget_us) + len(costs)
        problem = build_problem(costs, choices, values, latency_limit(measured, budget_ns))
        for widths, us in zip(each, told_us, strict=True):
            kept = evaluate(problem, widths).latency_ns <= problem.budget_ns
            assert kept if us <= budget_us else not kept or 1000 * us <= budget_ns


def test_a_table_that_lacks_an_operator_is_a_miss_with_its_key(chain: Parts) -> None:
    _, groups, costs = chain
    choices = width_choices(groups, EMPTY)
    values = group_values({g.id: np.ones(g.units) for g in groups}, choices)
    with pytest.raises(LutMiss, match="conv"):
        build_problem(costs, choices, values, latency_limit(EMPTY, 1))


def test_offered_widths_end_with_the_dense_one_and_start_above_zero(chain: Parts) -> None:
    _, groups, _ = chain
    for group in groups:
        offered = width_choices(groups, EMPTY)[group.id]
        assert offered[-1] == group.units and offered[0] >= 1 and list(offered) == sorted(set(offered))


def test_the_most_salient_units_are_kept_in_order() -> None:
    saliency = {"g": np.array([0.1, 5.0, 0.2, 5.0, 3.0])}
    assert best_units(saliency, {"g": 3})["g"].tolist() == [1, 3, 4]
    assert best_units(saliency, {"g": 1})["g"].tolist() == [1]
    assert group_values(saliency, {"g": (1, 3, 5)})["g"].tolist() == pytest.approx([5.0, 13.0, 13.3])


def test_weight_bytes_are_those_of_the_slimmed_network(chain: Parts, tmp_path: Path) -> None:
    net, groups, costs = chain
    choices = width_choices(groups, EMPTY)
    measured = table(grid_requests(costs, choices))
    values = group_values({g.id: np.ones(g.units) for g in groups}, choices)
    problem = build_problem(costs, choices, values, latency_limit(measured, 10**9), others=[weight_bytes_limit(10**6)])
    rng = np.random.default_rng(1)
    for _ in range(5):
        widths = {group: int(rng.choice(offered)) for group, offered in choices.items()}
        keep = {group: np.arange(width) for group, width in widths.items()}
        to_onnx(slim(net, groups, keep), tmp_path / "slim.onnx")
        assert evaluate(problem, widths).other_costs["weight_bytes"] == weight_bytes(tmp_path / "slim.onnx")
