"""Put a table that has new entries on the scale of whole networks."""

from collections.abc import Sequence
from functools import partial

from lut.measure.runtime import Program
from lut.table import LatencyTable
from pruning.calibration import NUM_NETWORKS, calibrated, in_turns, plain
from pruning.export import to_onnx
from pruning.network import CouplingGroup, Network, Operator
from pruning.predict import predicted_us
from pruning.tables import Choices
from pruning.variants import Variant, random_variants
from workers.context import StepContext
from workers.steps.targets import Target, dense_program

SHARE = 0.2
"""Of the least time, and of the runs, that a network of the search gets."""


def calibrate(
    context: StepContext,
    target: Target,
    table: LatencyTable,
    parts: tuple[Network, Sequence[CouplingGroup], Sequence[Operator]],
    choices: Choices,
) -> LatencyTable:
    """Return the table with scale, offset and residual fitted on the dense network and a few random slimmed ones.

    None is masked: what is not computed because no list reads it makes masked ones faster than the sum of what they are made
    of, and would pull at the scale of all others. Tells the user where the machine was too restless for the table to be trusted.

    Args:
        context: of the step.
        target: where it is measured.
        table: covers the network at `choices`.
        parts: the dense network, its coupling groups, and its operators.
        choices: offered widths.
    """
    network, groups, costs = parts
    variants = list(random_variants(network, groups, choices, num=NUM_NETWORKS, seed=context.seed))
    dense = Variant(network=network, widths={group.id: group.units for group in groups}, patterns={})
    turns = in_turns(
        partial(target.meter.networks, share=SHARE),
        dense_program(context, network, target),
        [_program(context, target, variant, number) for number, variant in enumerate(variants)],
    )
    bare = plain(table)
    sums_us = [predicted_us(costs, one.widths, bare) for one in (dense, *variants)]
    table = calibrated(table, sums_us, [turns.dense_us, *turns.measured_us])
    context.log(
        f"On {len(sums_us)} whole networks the table of {target.device} is off by {table.residual:.1%} (median)."
    )
    if table.noisy:
        context.warning(
            "table_noisy",
            f"The machine was restless while {target.device} was measured: its pace scattered by {table.noise:.0%} "
            f"and moved by up to {table.drift:.0%}. Plans are measured and corrected, so they hold; they may not be the best.",
        )
    return table


def _program(context: StepContext, target: Target, variant: Variant, number: int) -> Program:
    path = context.path(f"calibration_{target.index}_{number}.onnx")
    to_onnx(variant.network, path, batch=target.profile.batch)
    return target.program(variant.network, path)
