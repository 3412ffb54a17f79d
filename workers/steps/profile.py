"""Measure what this network needs to know of the device and the device's table does not hold yet."""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lut.analytic import DEVICES, analytic_table
from lut.plots import PLOTS, part
from lut.table import LatencyTable
from pruning.groups import coupling_groups
from pruning.network import CouplingGroup, Operator
from pruning.operators import operators
from pruning.patterns.tables import maskable
from pruning.tables import grid_requests, width_choices
from workers.context import StepContext, StepProblem
from workers.files import PICTURES
from workers.steps.conditions import patterns_on_offer
from workers.steps.extend import extended
from workers.steps.loading import dense_network
from workers.steps.targets import Target, targets
from workers.steps.workbench import predicted_ms

MOST_DRAWN = 8
"""Operators in the report's pictures."""


def run(context: StepContext) -> dict[str, Any]:
    """Return what the tables are and how they predict the dense network; leave `table.json`, one more per further device."""
    start = time.monotonic()
    dense = dense_network(context)
    groups = coupling_groups(dense)
    costs = operators(dense, groups)
    tables: list[LatencyTable] = []
    luts, num_new = [], 0
    job = context.spec["job"]
    masks = patterns_on_offer(job)
    modules = maskable(dense, costs)
    offered = dict.fromkeys(modules, masks)
    step = None
    wanted = targets(context)
    for target in wanted:
        known, core = context.path(target.known_table_file), DEVICES.get(target.device)
        if core:
            before = analytic_table(core, [], batch=target.profile.batch)
        else:
            before = LatencyTable.load(known) if known.exists() else empty_table(target, groups, costs)
        step = step or before.step  # widths are offered at the ends of the stairs of the job's own device
        choices = width_choices(groups, replace(before, step=step))
        requests = grid_requests(costs, choices, patterns=offered)
        table = before
        if target.here:
            span = target.index / len(wanted), (target.index + 1) / len(wanted)
            parts = (dense, groups, costs)
            say = partial(_say, context, span)
            table = extended(context, target, before, requests, parts, choices, masks, say, span=span)
            luts.append(described(target, table))
            num_new += table.num_entries - before.num_entries
        elif core:
            table = analytic_table(core, requests, batch=target.profile.batch)
        elif missing := table.missing(one for one in requests if not one.signature.pattern):
            raise StepProblem(
                "table_incomplete",
                f"The latency table of {target.device} lacks {len(missing)} of the {len(requests)} operators of this network.",
            )
        table.save(context.path(target.table_file))
        if not tables:
            draw(context, part(table, (request.signature for request in requests), MOST_DRAWN))
        tables.append(table)
    context.log(f"The tables hold {sum(table.num_entries for table in tables)} entries, {num_new} of them new.")
    return {
        "luts": luts,
        "num_new": num_new,
        "seconds": time.monotonic() - start,
        "dense_sum_us": 1e3 * predicted_ms(costs, groups, tables[0]),
        "summary": {"num_entries_measured": num_new},
    }


def draw(context: StepContext, table: LatencyTable) -> None:
    """Leave the pictures of the report; none of a table without a surface."""
    if table.entries:
        for name in PICTURES:
            PLOTS[Path(name).stem](table, (), context.path(name))


def described(target: Target, table: LatencyTable) -> dict[str, Any]:
    """Return what the registry keeps of a table beside its file."""
    return {"file": target.table_file, "device": target.device, **table.figures()}


def _say(context: StepContext, span: tuple[float, float], share: float) -> None:
    start, end = span
    context.progress(start + (end - start) * share)


def empty_table(target: Target, groups: Sequence[CouplingGroup], costs: Sequence[Operator]) -> LatencyTable:
    """Return a table that knows the device's stair and nothing else: the stair decides which widths are worth measuring."""
    finest = LatencyTable(profile=target.profile, entries={})
    return replace(finest, step=target.meter.step(grid_requests(costs, width_choices(groups, finest))))
