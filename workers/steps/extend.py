"""Extend a device's latency table to all that a network needs: measure what is missing, then calibrate; say how far that is."""

from collections.abc import Callable, Iterable, Sequence

from lut.measure.tables import Keep, forget
from lut.pattern import Pattern
from lut.request import GridRequest
from lut.table import LatencyTable
from pruning.network import CouplingGroup, Network, Operator
from pruning.tables import Choices
from workers.context import StepContext
from workers.steps.calibrate import calibrate
from workers.steps.targets import Target

MEASURED = 0.7
"""Share of the progress when all points are measured, and the table only wants calibrating."""


def extended(
    context: StepContext,
    target: Target,
    before: LatencyTable,
    requests: Iterable[GridRequest],
    parts: tuple[Network, Sequence[CouplingGroup], Sequence[Operator]],
    choices: Choices,
    patterns: Sequence[Pattern],
    progress: Callable[[float], None],
    *,
    span: tuple[float, float] = (0.0, 1.0),
    begun: LatencyTable | None = None,
    keep: Keep = forget,
) -> LatencyTable:
    """Return the table with what had to be measured beyond `before`, calibrated anew; `before` itself where that was nothing.

    Args:
        context: of the step.
        target: where it is measured.
        before: what the registry holds.
        requests: everything that must be known.
        parts: the dense network, its coupling groups, and its operators.
        choices: offered widths.
        patterns: on offer in every layer that may have one.
        progress: told the share of all this that is done, 0 to 1.
        span: the part of the step that this is; agents tell progress by themselves.
        begun: what an interrupted attempt kept.
        keep: gets what is measured so far at intervals.
    """
    start, end = span
    table = target.meter.table(
        requests,
        before,
        lambda done, total: progress(MEASURED * done / max(1, total)),
        span=(start, start + MEASURED * (end - start)),
        begun=begun,
        keep=keep,
    )
    if table.num_entries == before.num_entries:
        return table
    return calibrate(
        context, target, table, parts, choices, patterns, lambda share: progress(MEASURED + (1 - MEASURED) * share)
    )
