"""Extend a device's latency table to all that a network needs: measure what is missing, then calibrate; say how far that is."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from lut.measure.tables import Keep, forget
from lut.pattern import Pattern
from lut.request import GridRequest
from lut.table import LatencyTable
from pruning.calibration import doubtful
from pruning.network import CouplingGroup, Network, Operator
from pruning.tables import Choices
from workers.context import StepContext
from workers.steps.calibrate import calibrate
from workers.steps.targets import Target

MEASURED = 0.7
"""Share of the progress when all points are measured, and the table only wants calibrating."""
ONCE = 0.8
"""Share when that is done, too, where it may have to be done again,"""
AGAIN = 0.95
"""and when all points are measured again."""


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

    Where the machine was restless and whole networks do not agree with the table, that is measured once more, and the table that they
    agree with better counts. Tells the user where even that one is not to be trusted.

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
    asked = list(requests)

    def measured(start: float, end: float, begun: LatencyTable | None, keep: Keep) -> LatencyTable:
        first, last = (span[0] + (span[1] - span[0]) * share for share in (start, end))
        say = _within(progress, start, end)
        return target.meter.table(
            asked, before, lambda done, total: say(done / max(1, total)), span=(first, last), begun=begun, keep=keep
        )

    def fitted(table: LatencyTable, start: float, end: float) -> LatencyTable:
        return calibrate(context, target, table, parts, choices, patterns, _within(progress, start, end))

    table = measured(0.0, MEASURED, begun, keep)
    if table.num_entries == before.num_entries:
        return table
    table = fitted(table, MEASURED, ONCE if table.noisy else 1.0)
    if doubtful(table):
        context.log(f"The machine was restless: what the table of {target.device} lacked is measured once more.")
        again = fitted(measured(ONCE, AGAIN, None, forget), AGAIN, 1.0)
        both_s = table.seconds + again.seconds - before.seconds
        table = replace(min((table, again), key=lambda one: one.residual), seconds=both_s)
    progress(1.0)
    _warn(context, target, table)
    return table


def _within(progress: Callable[[float], None], start: float, end: float) -> Callable[[float], None]:
    return lambda share: progress(start + (end - start) * share)


def _warn(context: StepContext, target: Target, table: LatencyTable) -> None:
    """Tell the user where the machine was too restless for the table to be trusted."""
    if table.noisy:
        context.warning(
            "table_noisy",
            f"The machine was restless while {target.device} was measured: its pace scattered by {table.noise:.0%} "
            f"and moved by up to {table.drift:.0%}. Plans are measured and corrected, so they hold; they may not be the best.",
        )
