"""A latency table's scale and offset, fitted on whole slimmed networks, and what its masked layers take (method section 9)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from lut.calibrate import fit, fit_masked
from lut.pattern import Pattern
from lut.table import LatencyTable
from pruning.network import CouplingGroup, Network, Operator
from pruning.patterns.tables import maskable
from pruning.planned import planned_variants
from pruning.stages import removable_stages
from pruning.tables import Choices
from pruning.variants import Variant, random_variants

NUM_NETWORKS = 10
"""Slimmed networks a table is calibrated on, beside the dense one;"""
PLANS = (0.3, 0.4, 0.55, 0.75)
"""of these the solver chose some by the table's own word, of this share of the dense latency;"""
NUM_MASKED = 4
"""and masked ones, where patterns are on offer."""

DOUBTFUL = 0.025
"""A table that a restless machine measured and whose fit is off by more than this wants measuring once more."""

Predict = Callable[[LatencyTable], float]
"""The latency of one network by a table's word, in microseconds."""


def calibration_variants(
    network: Network,
    groups: Sequence[CouplingGroup],
    costs: Sequence[Operator],
    table: LatencyTable,
    choices: Choices,
    patterns: Sequence[Pattern] = (),
    *,
    seed: int = 0,
) -> Iterator[Variant]:
    """Yield what a table is calibrated on beside the dense network: slimmed networks, `NUM_NETWORKS` in all, then masked ones.

    Random networks of as many operators each do not tell a scale from an offset of each operator, and what plans have in common
    no random network has: fewer operators, and the cheapest entries.

    Args:
        network: the dense one.
        groups: its coupling groups.
        costs: its operators.
        table: covers the network at `choices`.
        choices: offered widths by group.
        patterns: lowerable ones; without there are no masked networks.
        seed: of everything that is drawn.
    """
    stages, modules = removable_stages(network, groups, costs), maskable(network, costs)
    num_planned = 0
    for _, one in planned_variants(network, groups, costs, table, choices, PLANS, seed=seed):
        yield one
        num_planned += 1
    yield from random_variants(network, groups, choices, num=NUM_NETWORKS - num_planned, stages=stages, seed=seed)
    num = NUM_MASKED if patterns else 0
    yield from random_variants(network, groups, choices, modules, patterns, num=num, masked_every=1, seed=seed)


def calibrated(table: LatencyTable, predict_us: Sequence[Predict], measured_us: Sequence[float]) -> LatencyTable:
    """Return the table with scale, offset and residual fitted on whole networks without masks, whatever they were before.

    Networks that differ in their number of operators tell an operator's offset from the scale. Raises ValueError as
    `lut.calibrate.fit`.

    Parameters: one of `predict_us`, and of `measured_us` what it took, for each network.
    """
    bare, one_more = plain(table), replace(plain(table), operator_offset_us=1.0)
    sums_us = [predict(bare) for predict in predict_us]
    num_operators = [predict(one_more) - own for predict, own in zip(predict_us, sums_us, strict=True)]
    calibration = fit(sums_us, num_operators, measured_us)
    return replace(bare.calibrated(calibration), residual=calibration.residual, masked_scale=table.masked_scale)


def masks_calibrated(table: LatencyTable, predict_us: Sequence[Predict], measured_us: Sequence[float]) -> LatencyTable:
    """Return the table, calibrated on slimmed networks, with what masked layers take in networks over what they take by themselves;
    as it is where there are none.

    A runtime changes layouts around gathers and grouped convolutions, and fuses less there than it does for one operator by itself.

    Parameters: as of `calibrated`, for masked networks.
    """
    if not measured_us:
        return table
    once, twice = replace(table, masked_scale=1.0), replace(table, masked_scale=2.0)
    masked_us = [predict(twice) - predict(once) for predict in predict_us]
    dense_us = [predict(once) - masked for predict, masked in zip(predict_us, masked_us, strict=True)]
    return replace(table, masked_scale=fit_masked(dense_us, masked_us, measured_us))


def doubtful(table: LatencyTable) -> bool:
    """Return whether a calibrated table wants measuring once more: its operators were measured in phases that differ too much to be
    one device's, and a plan is made of those that look cheapest.
    """
    return table.noisy and table.residual > DOUBTFUL


def plain(table: LatencyTable) -> LatencyTable:
    """Return the table without its calibration."""
    return replace(table, scale=1.0, operator_offset_us=0.0, masked_scale=1.0, residual=0.0)
