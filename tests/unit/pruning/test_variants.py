"""Random smaller networks, and a table's word on them."""

import numpy as np
import pytest
import torch
from torch import nn

from lut.pattern import Pattern
from lut.profile import DeviceProfile
from lut.request import GridRequest
from lut.table import Entry, LatencyTable
from pruning.architectures import build
from pruning.groups import coupling_groups
from pruning.lower.rewrite import lower
from pruning.network import CouplingGroup, Network, Operator
from pruning.operators import operators
from pruning.patterns.tables import maskable, weight_of
from pruning.predict import built_us, predicted_us
from pruning.stages import removable_stages
from pruning.tables import Choices, grid_requests
from pruning.trace import trace
from pruning.variants import random_variants
from tests.builders import SHAPE, Chain

PATTERN = Pattern.parse("8x1@1/2")
PROFILE = DeviceProfile(hardware="test", runtime="none", runtime_version="0", threads=1, batch=1)
Parts = tuple[Network, tuple[CouplingGroup, ...], tuple[Operator, ...], Choices]


@pytest.fixture
def parts() -> Parts:
    network = trace(Chain((32, 24, 32)), SHAPE)
    groups = coupling_groups(network)
    choices = {g.id: tuple(range(8, g.units + 1, 8)) for g in groups if not g.frozen}
    return network, groups, operators(network, groups), choices


def test_variants_have_offered_widths_run_and_come_again_with_their_seed(parts: Parts) -> None:
    network, groups, costs, choices = parts
    modules = maskable(network, costs)
    first, again, other = (
        list(random_variants(network, groups, choices, modules, [PATTERN], num=num, seed=seed))
        for num, seed in ((6, 0), (4, 0), (6, 1))
    )
    assert [v.widths for v in first[:4]] == [v.widths for v in again]
    assert [v.widths for v in first] != [v.widths for v in other]
    assert any(v.patterns for v in first)
    assert not any(v.patterns for v in first[::2])
    for variant in first:
        assert all(width in choices[group] for group, width in variant.widths.items())
        with torch.no_grad():
            assert variant.network.module(torch.zeros(2, *SHAPE)).isfinite().all()


def test_every_second_variant_lacks_stages_and_is_told_without_them() -> None:
    network = trace(build("cifar/resnet20", 10), SHAPE)
    groups = coupling_groups(network)
    costs = operators(network, groups)
    stages = removable_stages(network, groups, costs)
    choices = {g.id: tuple(range(4, g.units + 1, 4)) for g in groups if not g.frozen}
    modules = maskable(network, costs)
    drawn = list(random_variants(network, groups, choices, modules, [PATTERN], num=6, stages=stages))
    once = {
        r.signature: {pair: Entry(p50_us=1.0, p90_us=1.0, num_samples=1) for pair in r.pairs()}
        for r in grid_requests(costs, choices, patterns={name: [PATTERN] for name in modules})
    }
    table = LatencyTable(profile=PROFILE, entries=once)
    counts = [predicted_us(costs, variant.widths, table) for variant in drawn]
    assert counts[::2] == [len(costs)] * 3 and min(counts[1::2]) < len(costs)
    for variant, count in zip(drawn, counts, strict=True):
        assert {node.name for node in variant.network.module.graph.nodes} >= set(variant.patterns)
        if not variant.patterns:
            assert built_us(costs, variant.network, variant.widths, table) == pytest.approx(count)
        with torch.no_grad():
            assert variant.network.module(torch.zeros(2, *SHAPE)).isfinite().all()


def test_a_pattern_costs_its_own_entry_and_the_dense_one_where_it_keeps_everything(parts: Parts) -> None:
    _, groups, costs, choices = parts
    modules = maskable(parts[0], costs)
    requests = grid_requests(costs, choices, patterns={name: [PATTERN] for name in modules})
    flat = {
        r.signature: {
            pair: Entry(p50_us=us, p90_us=us, num_samples=1)
            for us in [3.0 if r.signature.pattern else 10.0]
            for pair in r.pairs()
        }
        for r in requests
    }
    table = LatencyTable(profile=PROFILE, entries=flat)
    widths = {group.id: group.units for group in groups}
    (name, *_) = modules
    dense = predicted_us(costs, widths, table)
    assert dense == pytest.approx(10.0 * len(costs))
    assert predicted_us(costs, widths, table, {name: PATTERN}) == pytest.approx(dense - 7.0)
    everything = Pattern.parse("8x1@1/1")
    assert predicted_us(costs, widths, table, {name: everything}) == dense
    assert np.isfinite(dense)


def linear_table(requests: list[GridRequest], also: tuple[int, ...] = (1,)) -> LatencyTable:
    """A device that takes a microsecond for every input-output pair, half of that under the pattern; of what is asked `also`."""
    entries = {
        r.signature: {
            (i, o): Entry(p50_us=us, p90_us=us, num_samples=1)
            for i in (*also, *r.c_ins)
            for o in (*also, *r.c_outs)
            if not r.paired or i == o
            for us in [i * o * (0.5 if r.signature.pattern else 1.0)]
        }
        for r in requests
    }
    return LatencyTable(profile=PROFILE, entries=entries)


def test_a_network_as_built_is_priced_by_the_channels_it_reads() -> None:
    network = trace(Chain((32, 32, 16)), SHAPE)
    groups = coupling_groups(network)
    costs, widths = operators(network, groups), {group.id: group.units for group in groups}
    (name, module), *_ = maskable(network, costs).items()
    one_row = Pattern.parse("32x1@1/2")
    choices = {g.id: tuple(range(8, g.units + 1, 8)) for g in groups if not g.frozen}
    table = linear_table(grid_requests(costs, choices, patterns={name: [one_row, PATTERN]}))
    dense_us = predicted_us(costs, widths, table)
    assert built_us(costs, network, widths, table) == pytest.approx(dense_us)
    shape = weight_of(network.module, module).shape
    half = torch.zeros(shape, dtype=torch.bool)
    half[:, :16] = True
    narrow = lower(network, {module: half})
    slim_us = predicted_us(costs, widths | {network_input(costs, name): 16}, table)
    assert built_us(costs, narrow, widths, table, {name: one_row}) == pytest.approx(slim_us), (
        "it is the narrower network"
    )
    wide = {group: tuple(width for width in offered if width > 16) or offered for group, offered in choices.items()}
    above = linear_table(grid_requests(costs, wide, patterns={name: [one_row]}), also=())
    assert built_us(costs, narrow, widths, above, {name: one_row}) == pytest.approx(slim_us), "in proportion"
    rows = torch.zeros(shape, dtype=torch.bool)
    for row in range(0, shape[0], 8):
        rows[row : row + 8, row // 8 :: 2] = True
    lowered = lower(network, {module: rows})
    masked_us = predicted_us(costs, widths, table, {name: PATTERN})
    assert built_us(costs, lowered, widths, table, {name: PATTERN}) == pytest.approx(masked_us), "every channel is read"


def test_block_rows_of_which_less_is_read_take_that_share_of_what_they_take_whole() -> None:
    three = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 1), nn.ReLU(), nn.Conv2d(64, 16, 1))
    network = trace(nn.Sequential(*three, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)), SHAPE)
    groups = coupling_groups(network)
    costs, widths = operators(network, groups), {group.id: group.units for group in groups}
    (first, wide), (second, narrow) = maskable(network, costs).items()
    patterns = {first: Pattern.parse("32x1@1/2"), second: Pattern.parse("16x1@1/4")}
    choices = {g.id: tuple(range(8, g.units + 1, 8)) for g in groups if not g.frozen}
    table = linear_table(grid_requests(costs, choices, patterns={name: [one] for name, one in patterns.items()}))
    # One block-row of 32 channels is a convolution without groups, and fast here.
    (masked,) = (signature for signature in table.entries if signature.pattern == patterns[first].id)
    table.entries[masked][32, 32] = Entry(p50_us=1.0, p90_us=1.0, num_samples=1)
    masks = {name: torch.zeros(weight_of(network.module, name).shape, dtype=torch.bool) for name in (wide, narrow)}
    for row in range(2):
        masks[wide][32 * row : 32 * row + 32, row::2] = True
    masks[narrow][:, :16] = True
    lowered = lower(network, masks)
    assert lowered.module.get_submodule(wide).out_channels == 32, "16 of each block-row, though only one's are read"
    whole_us = predicted_us(costs, widths, table, patterns)
    half_us = table.latency_us(masked, 32, 64) / 2
    assert built_us(costs, lowered, widths, table, patterns) == pytest.approx(whole_us - half_us)


def network_input(costs: tuple[Operator, ...], name: str) -> str:
    """Return the group a layer reads."""
    return next(operator.c_in.terms[0][0] for operator in costs if operator.name == name)
