"""Put a table that has new entries on the scale of whole networks."""

from collections.abc import Callable, Sequence
from functools import partial

from lut.measure.runtime import Program
from lut.measure.turns import in_turns
from lut.pattern import Pattern
from lut.table import LatencyTable
from pruning.calibration import NUM_MASKED, NUM_NETWORKS, calibrated, calibration_variants, masks_calibrated
from pruning.export import to_onnx
from pruning.network import CouplingGroup, Network, Operator
from pruning.predict import built_us
from pruning.tables import Choices
from pruning.variants import Variant
from workers.context import StepContext
from workers.steps.targets import Target, dense_program

SHARE = 0.2
"""Of the least time, and of the runs, that a network of the search gets."""
MADE = 0.4
"""Share of the progress when all networks are made, and none is timed."""


def calibrate(
    context: StepContext,
    target: Target,
    table: LatencyTable,
    parts: tuple[Network, Sequence[CouplingGroup], Sequence[Operator]],
    choices: Choices,
    patterns: Sequence[Pattern],
    progress: Callable[[float], None],
) -> LatencyTable:
    """Return the table with scale, offset and residual fitted on the dense network and a few slimmed ones, some of them random and some
    that the solver chose by its word, some without some of their stages.

    Masked ones do not pull at that: they tell by themselves what masked layers take beside their entries.

    Args:
        context: of the step.
        target: where it is measured.
        table: covers the network at `choices`.
        parts: the dense network, its coupling groups, and its operators.
        choices: offered widths.
        patterns: on offer in every layer that may have one.
        progress: told the share of it that is done, 0 to 1.
    """
    network, groups, costs = parts
    lowerable = [pattern for pattern in patterns if pattern.lowerable]
    variants: list[Variant] = []
    programs: list[Program] = []
    for variant in calibration_variants(*parts, table, choices, lowerable, seed=context.seed):
        programs.append(_program(context, target, variant, len(variants)))
        variants.append(variant)
        progress(MADE * len(variants) / (NUM_NETWORKS + (NUM_MASKED if lowerable else 0)))
    turns = in_turns(
        partial(target.meter.networks, share=SHARE),
        dense_program(context, network, target),
        programs,
        progress=lambda done, total: progress(MADE + (1 - MADE) * done / total),
    )
    dense = Variant(network=network, widths={group.id: group.units for group in groups}, patterns={})
    whole = list(zip((dense, *variants), (turns.dense_us, *turns.measured_us), strict=True))
    slimmed, masked = ([one for one in whole if bool(one[0].patterns) is masked] for masked in (False, True))
    table = calibrated(table, [partial(_told_us, costs, one) for one, _ in slimmed], [us for _, us in slimmed])
    table = masks_calibrated(table, [partial(_told_us, costs, one) for one, _ in masked], [us for _, us in masked])
    context.log(
        f"On {len(slimmed)} whole networks the table of {target.device} is off by {table.residual:.1%} (median)."
    )
    if masked:
        context.log(f"Masked layers take {table.masked_scale:.2f} of what they take by themselves.")
    return table


def _told_us(costs: Sequence[Operator], one: Variant, table: LatencyTable) -> float:
    return built_us(costs, one.network, one.widths, table, one.patterns)


def _program(context: StepContext, target: Target, variant: Variant, number: int) -> Program:
    path = context.path(f"calibration_{target.index}_{number}.onnx")
    to_onnx(variant.network, path, batch=target.profile.batch)
    return target.program(variant.network, path)
