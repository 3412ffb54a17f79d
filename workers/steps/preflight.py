"""What a job would meet, found without measuring or training anything."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lut.request import num_macs
from lut.table import LatencyTable, LutMiss
from pruning.dense import DenseLayer, dense_layers
from pruning.groups import coupling_groups
from pruning.network import CouplingGroup, Network, Operator, Widths
from pruning.operators import operators
from pruning.predict import predicted_us
from pruning.slim import slice_head
from pruning.solve import solve
from pruning.stages import removable_stages
from pruning.tables import build_problem, group_values, latency_limit, width_choices
from workers.context import StepContext, StepProblem
from workers.steps.conditions import conditions, patterns_on_offer
from workers.steps.loading import full_network, problems
from workers.steps.others import other_rows
from workers.steps.prepare import class_names

NOTABLE_SHARE = 0.02
"""A layer that stays dense is mentioned from this share of the latency on by itself, smaller ones together."""
MOST_REASONS = 5


def run(context: StepContext) -> dict[str, Any]:
    """Return the fields of the wire's `Preflight`."""
    job = context.spec["job"]
    classes = class_names(job["classes"], context.spec["dataset"]["classes"])
    network = full = full_network(context)
    if job["head"] == "slice":
        with problems():
            network = slice_head(network, list(range(min(len(classes), network.num_outputs))))
    groups = coupling_groups(network)
    costs = operators(network, groups)
    conditions(costs, groups, job)
    patterns_on_offer(job)
    dense: Widths = {group.id: group.units for group in groups if not group.frozen}
    stored = context.path("known_table.json")
    table = LatencyTable.load(stored) if stored.exists() else None
    known = _priced(costs, dense, table)
    dense_ms = predicted_us(known, dense, table) / 1e3 if table and known else None
    floor_ms = _least_ms(network, groups, known, table) if table and known else None
    layers = dense_layers(network, groups)
    work = _work(costs, dense) + sum(layer.num_macs for layer in layers if not layer.priced)
    shares = _shares(costs, dense, table if known else None, work)
    blockers = _staying(layers, shares, work, by_table=bool(known))
    budget_ms = job["budget_ms"] or (dense_ms * job["budget_ratio"] if dense_ms is not None else None)
    blockers += [
        {"severity": "error", "code": "runtime_absent", "detail": sentence}
        for sentence in context.spec.get("absent", ())
    ]
    if not dense:
        blockers.append(
            {"severity": "error", "code": "nothing_to_prune", "detail": "No layer of this network can be pruned."}
        )
    if budget_ms is not None and floor_ms is not None and budget_ms < floor_ms:
        detail = f"The budget of {budget_ms:.4g} ms is below the minimum achievable, {floor_ms:.4g} ms by the device's table."
        blockers.append({"severity": "error", "code": "budget_infeasible", "detail": detail})
    try:
        other_rows(context.spec, classes, full)
    except StepProblem as problem:
        blockers.append({"severity": "error", "code": problem.code, "detail": problem.detail})
    prunable = sum(shares[op.name] for op in costs if op.c_in.terms or op.c_out.terms)
    return {
        "ok": not any(blocker["severity"] == "error" for blocker in blockers),
        "blockers": blockers,
        "num_coupling_groups": len(dense),
        "prunable_latency_share": prunable,
        "dense_ms": dense_ms,
        "min_achievable_ms": floor_ms,
    }


def _priced(costs: tuple[Operator, ...], dense: Widths, table: LatencyTable | None) -> tuple[Operator, ...]:
    """Return the operators the table prices; none where those it lacks do a notable share of the work.

    Another number of classes is another head, which costs next to nothing: the least latency is then a little too low, never too high.
    """
    known = [] if table is None else [op for op in costs if _covers(table, op, dense)]
    missing = _work(costs, dense) - _work(known, dense)
    return tuple(known) if missing <= NOTABLE_SHARE * _work(costs, dense) else ()


def _covers(table: LatencyTable, op: Operator, dense: Widths) -> bool:
    try:
        table.latency_us(op.signature, op.c_in.at(dense), op.c_out.at(dense))
    except LutMiss:
        return False
    return True


def _work(costs: Iterable[Operator], dense: Widths) -> int:
    return sum(num_macs(op.signature, op.c_in.at(dense), op.c_out.at(dense)) for op in costs)


def _least_ms(
    network: Network, groups: tuple[CouplingGroup, ...], known: tuple[Operator, ...], table: LatencyTable
) -> float | None:
    """Return the least achievable latency by the table; None where it does not cover every width on offer."""
    choices = width_choices(groups, table)
    flat = group_values({group.id: np.zeros(group.units) for group in groups}, choices)
    stages = removable_stages(network, groups, known)
    try:
        problem = build_problem(known, choices, flat, latency_limit(table, 0), stages=stages)
    except LutMiss:
        return None
    return solve(problem).min_achievable_ns / 1e6


def _shares(costs: tuple[Operator, ...], dense: Widths, table: LatencyTable | None, work: int) -> dict[str, float]:
    """Return each operator's share of the table's dense latency, or of all multiply-accumulates `work` without a table."""
    counts = {op.name: (op.signature, op.c_in.at(dense), op.c_out.at(dense)) for op in costs}
    if table is None:
        return {name: num_macs(*key) / max(1, work) for name, key in counts.items()}
    latency_us = {op.name: table.latency_us(*counts[op.name]) if _covers(table, op, dense) else 0.0 for op in costs}
    total = sum(latency_us.values()) or 1.0
    return {name: value / total for name, value in latency_us.items()}


def _staying(
    layers: Sequence[DenseLayer], shares: Mapping[str, float], work: int, *, by_table: bool
) -> list[dict[str, Any]]:
    """Return a warning for each layer that stays dense or has no price and owns a notable share, and one for the rest.

    A share is of the priced operators' latency by the device's table, and of all multiply-accumulates without a table and for what no
    table has a kind for.
    """
    found: list[dict[str, Any]] = []
    for code, priced in (("stays_dense", True), ("not_in_the_table", False)):
        state = "stays dense" if priced else "has no price"
        measure = "latency by the device's table" if by_table and priced else "multiply-accumulates"
        owned = [
            (layer, shares[layer.name] if priced else layer.num_macs / max(1, work))
            for layer in layers
            if layer.priced == priced
        ]
        small = [(layer, share) for layer, share in owned if share < NOTABLE_SHARE]
        for layer, share in owned:
            if share >= NOTABLE_SHARE:
                detail = f"{layer.module} {state}: {layer.reason}. It has {share:.1%} of the {measure}."
                found.append(_warning(code, detail, layer.module, share))
        if small:
            share = sum(share for _, share in small)
            names = ", ".join(layer.module for layer, _ in small)
            kinds = "; ".join(sorted({layer.reason for layer, _ in small})[:MOST_REASONS])
            detail = f"{len(small)} smaller layers each {state}, with {share:.1%} of the {measure}: {names}. Reasons: {kinds}."
            found.append(_warning(code, detail, small[0][0].module if len(small) == 1 else None, share))
    return found


def _warning(code: str, detail: str, layer: str | None, share: float) -> dict[str, Any]:
    return {"severity": "warning", "code": code, "detail": detail, "layer": layer, "latency_share": share}
