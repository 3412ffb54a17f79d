"""Measure what this network needs to know of the device and the device's table does not hold yet."""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from lut.measure.onnxruntime import measure_step, measure_table
from lut.profile import DeviceProfile
from lut.table import LatencyTable
from pruning.groups import coupling_groups
from pruning.network import CouplingGroup, Operator
from pruning.operators import operators
from pruning.tables import grid_requests, predicted_us, width_choices
from workers.context import StepContext
from workers.steps.loading import dense_network, profile


def run(context: StepContext) -> dict[str, Any]:
    """Return what the table is and how it predicts the dense network; leave `table.json`."""
    start = time.monotonic()
    device = profile(context)
    dense = dense_network(context)
    groups = coupling_groups(dense)
    costs = operators(dense, groups)
    known = context.path("known_table.json")
    before = LatencyTable.load(known) if known.exists() else _empty(device, groups, costs)
    requests = grid_requests(costs, width_choices(groups, before))
    table = measure_table(device, requests, before, lambda done, total: context.progress(done / max(1, total)))
    table.save(context.path("table.json"))
    widths = {group.id: group.units for group in groups if not group.frozen}
    num_new = table.num_entries - before.num_entries
    context.log(f"The table holds {table.num_entries} entries, {num_new} of them new.")
    return {
        "lut": {
            "profile": asdict(device),
            "num_entries": table.num_entries,
            "num_signatures": len(table.entries),
            "step": table.step,
            "noise": table.noise,
            "seconds": table.seconds,
        },
        "num_new": num_new,
        "seconds": time.monotonic() - start,
        "dense_sum_us": predicted_us(costs, widths, table),
        "summary": {"num_entries_measured": num_new},
    }


def _empty(device: DeviceProfile, groups: Sequence[CouplingGroup], costs: Sequence[Operator]) -> LatencyTable:
    """Return a table that knows the device's stair and nothing else: the stair decides which widths are worth measuring."""
    finest = LatencyTable(profile=device, entries={})
    return replace(finest, step=measure_step(device, grid_requests(costs, width_choices(groups, finest))))
