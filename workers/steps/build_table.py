"""Measure everything a network needs to know of a device, pruning nothing; goes on from what an earlier attempt kept."""

import time
from typing import Any

from lut.table import LatencyTable
from pruning.groups import coupling_groups
from pruning.operators import operators
from pruning.patterns.tables import maskable
from pruning.tables import grid_requests, width_choices
from workers.context import StepContext
from workers.steps.conditions import patterns_on_offer
from workers.steps.extend import extended
from workers.steps.loading import full_network
from workers.steps.profile import described, empty_table
from workers.steps.targets import targets

BEGUN = "begun.json"
KEEP_EVERY_S = 20.0


def run(context: StepContext) -> dict[str, Any]:
    """Return what the table is; leave `table.json`."""
    start = time.monotonic()
    (target,) = targets(context)
    network, profile = full_network(context), target.profile
    groups = coupling_groups(network)
    costs = operators(network, groups)
    stored, saved = context.path(target.known_table_file), context.path(BEGUN)
    begun = LatencyTable.load(saved) if saved.exists() else None
    if stored.exists():
        before = LatencyTable.load(stored)
    else:
        before = (
            LatencyTable(profile=profile, entries={}, step=begun.step) if begun else empty_table(target, groups, costs)
        )
    job = context.spec["job"]
    masks = patterns_on_offer(job)
    modules, choices = maskable(network, costs), width_choices(groups, before)
    requests = grid_requests(costs, choices, patterns=dict.fromkeys(modules, masks))
    parts = (network, groups, costs)
    table = extended(
        context, target, before, requests, parts, choices, masks, Pace(context), begun=begun, keep=Keeper(context)
    )
    table.save(context.path(target.table_file))
    num_new = table.num_entries - before.num_entries
    context.log(f"The table holds {table.num_entries} entries, {num_new} of them new.")
    seconds = time.monotonic() - start
    summary = {"num_entries_measured": num_new, "num_entries": table.num_entries, "seconds": seconds}
    return {"luts": [described(target, table)], "num_new": num_new, "seconds": seconds, "summary": summary}


class Pace:
    """Tells how much is done, and how long the rest takes at the pace so far."""

    def __init__(self, context: StepContext) -> None:
        self._context = context
        self._start = time.monotonic()

    def __call__(self, done: float) -> None:
        """Say which share is done, 0 to 1."""
        elapsed_s = time.monotonic() - self._start
        self._context.progress(done, elapsed_s * (1 - done) / done if done else None)


class Keeper:
    """Keeps what is measured so far as a checkpoint, not more often than it pays."""

    def __init__(self, context: StepContext) -> None:
        self._context = context
        self._kept_at = time.monotonic()

    def __call__(self, measured: LatencyTable) -> None:
        """Keep `measured`, unless the last checkpoint is young and the worker stays."""
        if time.monotonic() - self._kept_at >= KEEP_EVERY_S or self._context.draining.is_set():
            measured.save(self._context.path(BEGUN))
            self._context.checkpoint(self._context.path(BEGUN))
            self._kept_at = time.monotonic()
