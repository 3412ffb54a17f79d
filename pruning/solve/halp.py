"""HALP's solver as published: a linearised knapsack over channel groups, each item after its predecessor.

Shen et al., "Structural Pruning via Latency-Saliency Knapsack", NeurIPS 2022, arXiv 2210.06659, section 3.3 and
algorithm 1. Kept faithful for comparison, its blindness included: costs are taken at dense inputs, so what narrowing a
layer saves in its consumers is not seen; one solution is kept per capacity, so precedence is served greedily. Two
things are repaired: items that do not fit are skipped, and a plan over the budget is computed again for a smaller
capacity.
"""

from dataclasses import dataclass

import numpy as np

from pruning.problem import Plan, Problem
from pruning.solve.answer import Run
from pruning.solve.baselines import fits, judged, linearised
from pruning.solve.build import build_graph
from pruning.solve.factors import Choice

CAPACITY_STEPS = 10_000
"""States of the capacity axis; smaller capacities are exact to the nanosecond."""
FEWEST_STEPS = 100
MAX_COPIES = 2_000_000_000
"""Counts the dynamic program may copy: with thousands of groups the capacity axis is coarser."""
SHRINK = 0.97
"""Factor on the capacity after a plan that is over the budget."""
MAX_SHRINKS = 200


@dataclass(frozen=True, kw_only=True)
class Items:
    """Items in the order the dynamic program takes them: value descending, predecessors first."""

    group: np.ndarray
    """int64 [n]: index of the coupling group."""
    position: np.ndarray
    """int64 [n]: how many items of its group come before."""
    value: np.ndarray
    cost_ns: np.ndarray
    """int64 [n]: cumulated cost of the group up to and with this item."""
    cost_before_ns: np.ndarray


def halp(problem: Problem, *, seed: int = 0, tolerance: float = 1e-3, time_limit_s: float = 30.0) -> Plan:
    """Return the plan of the linearised knapsack, never over a budget; `unknown` when even its smallest plan is."""
    run = Run(solver="halp", seed=seed, tolerance=tolerance, time_limit_s=time_limit_s)
    removable = {group_id for stage in problem.stages for group_id in stage.groups}
    value, latency_ns = linearised(problem)
    base_ns = problem.fixed_latency_ns + sum(
        int(layer.latency_ns[0, -1, -1]) for layer in problem.layers if layer.output is None
    )
    base_ns += sum(int(cost[0]) for group_id, cost in latency_ns.items() if group_id not in removable)
    items = _items(problem, value, latency_ns, removable)
    # All items together are the largest capacity that makes a difference.
    dearest = int(np.maximum(0, items.cost_ns - items.cost_before_ns).sum())
    capacity = min(problem.budget_ns - base_ns, dearest)
    choice = None
    for _ in range(MAX_SHRINKS):
        taken = knapsack(items, max(0, capacity), len(problem.groups))
        attempt = _choice(problem, taken, removable)
        if fits(problem, attempt.totals(problem)):
            choice = attempt
            break
        if capacity <= 0 or run.left_s() < 0:
            break
        capacity = int(capacity * SHRINK) if capacity > 50 else capacity - 1
    if choice is None:
        smallest = _choice(problem, np.zeros(len(problem.groups), dtype=np.int64), removable)
        choice = smallest if fits(problem, smallest.totals(problem)) else None
    return judged(build_graph(problem), choice, run)


def _items(
    problem: Problem, value: dict[str, np.ndarray], latency_ns: dict[str, np.ndarray], removable: set[str]
) -> Items:
    rows = []
    for g, group in enumerate(problem.groups):
        gains, costs = value[group.id], latency_ns[group.id]
        if group.id in removable:
            gains, costs = np.concatenate(([0.0], gains)), np.concatenate(([0], costs))
        steps = np.diff(gains)
        # A successor never sorts before its predecessor: its rank is its own value or the smallest before it.
        rank = np.minimum.accumulate(steps)
        rows += [
            (-rank[i], g, i, steps[i], int(costs[i + 1] - costs[0]), int(costs[i] - costs[0]))
            for i in range(len(steps))
        ]
    rows.sort()
    columns = [np.array([row[c] for row in rows]) for c in range(1, 6)]
    return Items(group=columns[0], position=columns[1], value=columns[2], cost_ns=columns[3], cost_before_ns=columns[4])


def knapsack(items: Items, capacity: int, num_groups: int) -> np.ndarray:
    """Return int64 [num_groups]: items taken of each group by the paper's dynamic program over the capacities."""
    steps = max(FEWEST_STEPS, min(CAPACITY_STEPS, MAX_COPIES // max(1, num_groups * len(items.group))))
    unit = max(1, -(-capacity // steps))
    size = capacity // unit
    best = np.zeros(size + 1)
    taken = np.zeros((num_groups, size + 1), dtype=np.int16)
    for group, position, value, cost_ns, before_ns in zip(
        items.group, items.position, items.value, items.cost_ns, items.cost_before_ns, strict=True
    ):
        # Rounding the cumulated cost keeps the error of a whole group within one unit.
        cost = int(-(-cost_ns // unit) - -(-before_ns // unit))
        if cost > size:
            continue
        state = np.arange(max(0, cost), size + 1)
        source = np.minimum(state - cost, size)
        gain = best[source] + value
        better = (gain > best[state]) & (taken[group, source] == position)
        state, source = state[better], source[better]
        best[state] = gain[better]
        taken[:, state] = taken[:, source]
        taken[group, state] += 1
    return taken[:, int(best.argmax())].astype(np.int64)


def _choice(problem: Problem, taken: np.ndarray, removable: set[str]) -> Choice:
    """Return the widths of the taken items; a stage with a group that got none goes as a whole."""
    count = {group.id: int(number) for group, number in zip(problem.groups, taken, strict=True)}
    removed = tuple(stage.id for stage in problem.stages if any(count[group_id] == 0 for group_id in stage.groups))
    gone = {group_id for stage in problem.stages if stage.id in removed for group_id in stage.groups}
    widths = {
        group.id: 0 if group.id in gone else group.widths[count[group.id] - (group.id in removable)]
        for group in problem.groups
    }
    return Choice(widths=widths, removed=removed)
