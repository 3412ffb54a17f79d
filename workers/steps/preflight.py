"""What a job would meet, found without measuring or training anything."""

from typing import Any

import numpy as np

from lut.request import num_macs
from lut.table import LatencyTable, LutMiss
from pruning.groups import coupling_groups
from pruning.network import CouplingGroup, Network, Operator, Widths
from pruning.operators import operators, unpriced
from pruning.slim import slice_head
from pruning.solve import solve
from pruning.stages import removable_stages
from pruning.tables import build_problem, group_values, predicted_us, width_choices
from workers.context import StepContext
from workers.steps.loading import full_network, problems
from workers.steps.prepare import class_names

NOTABLE_SHARE = 0.02
"""A layer that stays dense is mentioned from this share of the latency on."""


def run(context: StepContext) -> dict[str, Any]:
    """Return the fields of the wire's `Preflight`."""
    job = context.spec["job"]
    classes = class_names(job["classes"], context.spec["dataset"]["classes"])
    network = full_network(context)
    if job["head"] == "slice":
        with problems():
            network = slice_head(network, list(range(min(len(classes), network.num_outputs))))
    groups = coupling_groups(network)
    costs = operators(network, groups)
    dense: Widths = {group.id: group.units for group in groups if not group.frozen}
    known = context.path("known_table.json")
    table = LatencyTable.load(known) if known.exists() else None
    dense_ms, floor_ms = _from_table(network, groups, costs, dense, table)
    shares = _shares(costs, dense, table if dense_ms is not None else None)
    blockers = _frozen(groups, costs, shares)
    for name in unpriced(network, groups):
        detail = f"No table prices {name}: its latency shows only when the whole network is measured."
        blockers.append({"severity": "warning", "code": "not_in_the_table", "detail": detail, "layer": name})
    budget_ms = job["budget_ms"] or (dense_ms * job["budget_ratio"] if dense_ms is not None else None)
    if not dense:
        blockers.append(
            {"severity": "error", "code": "nothing_to_prune", "detail": "No layer of this network can be pruned."}
        )
    if budget_ms is not None and floor_ms is not None and budget_ms < floor_ms:
        detail = f"The budget of {budget_ms:.4g} ms is below the minimum achievable, {floor_ms:.4g} ms by the device's table."
        blockers.append({"severity": "error", "code": "budget_infeasible", "detail": detail})
    prunable = sum(share for op, share in zip(costs, shares, strict=True) if op.c_in.terms or op.c_out.terms)
    return {
        "ok": not any(blocker["severity"] == "error" for blocker in blockers),
        "blockers": blockers,
        "num_coupling_groups": len(dense),
        "prunable_latency_share": prunable,
        "dense_ms": dense_ms,
        "min_achievable_ms": floor_ms,
    }


def _from_table(
    network: Network,
    groups: tuple[CouplingGroup, ...],
    costs: tuple[Operator, ...],
    dense: Widths,
    table: LatencyTable | None,
) -> tuple[float | None, float | None]:
    """Return the dense latency and the least achievable one in ms by the table; (None, None) where it does not cover the network."""
    if table is None:
        return None, None
    choices = width_choices(groups, table)
    flat = group_values({group.id: np.zeros(group.units) for group in groups}, choices)
    try:
        problem = build_problem(
            costs, choices, flat, table, budget_ns=0, stages=removable_stages(network, groups, costs)
        )
        return predicted_us(costs, dense, table) / 1e3, solve(problem).min_achievable_ns / 1e6
    except LutMiss:
        return None, None


def _shares(costs: tuple[Operator, ...], dense: Widths, table: LatencyTable | None) -> list[float]:
    """Return each operator's share of the dense latency, or of the multiply-accumulates without a table."""
    counts = [(op.signature, op.c_in.at(dense), op.c_out.at(dense)) for op in costs]
    amounts = [table.latency_us(*key) if table else float(num_macs(*key)) for key in counts]
    total = sum(amounts) or 1.0
    return [amount / total for amount in amounts]


def _frozen(
    groups: tuple[CouplingGroup, ...], costs: tuple[Operator, ...], shares: list[float]
) -> list[dict[str, Any]]:
    """Return a warning for each coupling group that stays dense and owns a notable share."""
    share_of = {op.name: share for op, share in zip(costs, shares, strict=True)}
    found = []
    for group in groups:
        owned = sum(share_of.get(slot.module.replace(".", "_"), 0.0) for slot in group.slots if slot.axis != "in")
        if group.frozen and owned >= NOTABLE_SHARE:
            found.append(
                {
                    "severity": "warning",
                    "code": "stays_dense",
                    "detail": group.frozen,
                    "layer": group.id,
                    "latency_share": owned,
                }
            )
    return found
