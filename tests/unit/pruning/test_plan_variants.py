"""Networks that the solver makes by a table's word, and their share of those that a table is calibrated on."""

import pytest
import torch

from lut.pattern import Pattern
from lut.profile import DeviceProfile
from lut.request import num_macs
from lut.table import Entry, LatencyTable
from pruning.architectures import build
from pruning.calibration import NUM_MASKED, NUM_NETWORKS, PLANS, calibrated, calibration_variants
from pruning.groups import coupling_groups
from pruning.network import CouplingGroup, Network, Operator
from pruning.operators import operators
from pruning.patterns.tables import maskable
from pruning.planned import planned_variants
from pruning.predict import built_us, predicted_us
from pruning.tables import Choices, grid_requests, width_choices
from pruning.trace import trace
from pruning.variants import LEAST_SHARE, Variant
from tests.builders import SHAPE

PROFILE = DeviceProfile(hardware="test", runtime="none", runtime_version="0", threads=1, batch=1)
PATTERN = Pattern.parse("8x1@1/2")
Parts = tuple[Network, tuple[CouplingGroup, ...], tuple[Operator, ...], LatencyTable, Choices]


def parts_on(us_per_mac: float) -> Parts:
    """A residual network on a device of so many microseconds a multiply-accumulate, and one for every operator."""
    network = trace(build("cifar/resnet20-a", 10), SHAPE)
    groups = coupling_groups(network)
    costs = operators(network, groups)
    choices = width_choices(groups, LatencyTable(profile=PROFILE, entries={}, step=4))
    requests = grid_requests(costs, choices, patterns=dict.fromkeys(maskable(network, costs), (PATTERN,)))
    entries = {
        r.signature: {
            pair: Entry(p50_us=us, p90_us=us, num_samples=1)
            for pair in r.pairs()
            for us in [1.0 + us_per_mac * num_macs(r.signature, *pair)]
        }
        for r in requests
    }
    return network, groups, costs, LatencyTable(profile=PROFILE, entries=entries, step=4), choices


@pytest.fixture(scope="module")
def parts() -> Parts:
    return parts_on(1e-3)


def test_plans_take_what_they_may_by_the_tables_word_and_run(parts: Parts) -> None:
    _, groups, costs, table, choices = parts
    dense = {group.id: group.units for group in groups}
    dense_us = predicted_us(costs, dense, table)
    found = list(planned_variants(*parts, [0.5, 0.3], [PATTERN]))
    assert [share for share, _ in found] == [0.5, 0.3]
    assert [bool(one.patterns) for _, one in found] == [False, True]
    for share, one in found:
        assert one.told_us is not None and 0.97 * share * dense_us <= one.told_us <= share * dense_us
        kept = [width for width in one.widths.values() if width]
        assert kept and all(one.widths[g] == 0 or one.widths[g] >= LEAST_SHARE * dense[g] for g in choices)
        with torch.no_grad():
            assert one.network.module(torch.zeros(2, *SHAPE)).isfinite().all()
    _, plain = found[0]
    assert plain.told_us == pytest.approx(built_us(costs, plain.network, plain.widths, table), rel=1e-3)
    assert all(one.patterns for _, one in planned_variants(*parts, [0.4], [PATTERN], masked_every=1))


def test_plans_come_again_with_their_seed_each_by_itself(parts: Parts) -> None:
    first, alone, other = (
        [one.widths for _, one in planned_variants(*parts, shares, seed=seed)]
        for shares, seed in (([0.5, 0.8], 3), ([0.5], 3), ([0.5, 0.8], 4))
    )
    assert first[:1] == alone
    assert first != other


def test_a_table_is_calibrated_on_plans_and_random_networks_and_that_tells_what_operators_take(parts: Parts) -> None:
    _, _, costs, table, _ = parts
    made = list(calibration_variants(*parts, [PATTERN]))
    slimmed, masked = ([one for one in made if bool(one.patterns) is masks] for masks in (False, True))
    assert (len(slimmed), len(masked)) == (NUM_NETWORKS, NUM_MASKED)
    assert sum(one.told_us is not None for one in slimmed) == len(PLANS)
    assert all(one.told_us is None for one in masked)

    def told(one: Variant, table: LatencyTable) -> float:
        return built_us(costs, one.network, one.widths, table)

    # A device on which operators take half as long again in a network, and five microseconds more each.
    here = [lambda table, one=one: told(one, table) for one in slimmed]
    num = [sum(node.name in {c.name for c in costs} for node in one.network.module.graph.nodes) for one in slimmed]
    fitted = calibrated(table, here, [1.5 * told(one, table) + 5.0 * n for one, n in zip(slimmed, num, strict=True)])
    assert (fitted.scale, fitted.operator_offset_us) == (pytest.approx(1.5, rel=0.02), pytest.approx(5.0, rel=0.1))


def test_where_no_plan_is_to_be_had_random_networks_take_its_place() -> None:
    flat = parts_on(0.0)
    # Channels are for nothing there, and not enough branches may go for the smallest budgets.
    planned = list(planned_variants(*flat, PLANS))
    assert len(planned) < len(PLANS)
    made = list(calibration_variants(*flat))
    assert len(made) == NUM_NETWORKS and not any(one.patterns for one in made)
    assert sum(one.told_us is None for one in made) == NUM_NETWORKS - len(planned)
