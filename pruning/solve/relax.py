"""Smaller graphs that bound a problem: as few totals told apart as needed for the graph to split, and what follows from them."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pruning.problem import Problem, offer
from pruning.solve.blueprint import Blueprint
from pruning.solve.build import graph_at
from pruning.solve.factors import Graph
from pruning.solve.order import DoesNotSplitError, num_entries, order_from_the_end
from pruning.solve.price import Pricer
from pruning.solve.totals import EXACT, Terms

LARGE = 8
"""Tables from an eighth of the largest on are made smaller together."""


def sharpest(problem: Problem, centre: Mapping[str, int], ceiling: int) -> Pricer:
    """Return a graph that splits within the ceiling, blurred where it has to be and as little as a greedy choice finds.

    Raises DoesNotSplitError when the graph does not split with one total a concatenation either.
    """
    blueprint = Blueprint(problem, centre)
    levels = _coarsened(blueprint, ceiling)
    _sharpen(blueprint, levels, ceiling)
    return Pricer(graph_at(blueprint, levels), ceiling)


def _coarsened(blueprint: Blueprint, ceiling: int) -> dict[Terms, int]:
    """Return levels at which the graph splits: from exact ones, every large table loses the totals that cost least to merge."""
    levels = dict.fromkeys(blueprint.concats, EXACT)
    while True:
        outline, serves = blueprint.outline(levels)
        steps = order_from_the_end(outline, math.inf) or ()
        if num_entries(steps) <= ceiling:
            return levels
        next_levels = {terms: _coarser(blueprint, terms, level) for terms, level in levels.items() if level > 0}
        least, merged = 0.0, set[Terms]()
        for step in sorted(steps, key=lambda step: -step.entries):
            met = set[Terms]().union(*(serves.get(v, set()) for v in (step.variable, *step.scope))) & set(next_levels)
            if met and step.entries >= least:
                least = max(least, step.entries / LARGE)
                merged.add(min(met, key=lambda terms: (_loss(blueprint, terms, next_levels[terms]), terms)))
        if not merged:
            raise DoesNotSplitError(f"not even with one total a concatenation within {ceiling} table entries")
        levels.update({terms: next_levels[terms] for terms in merged})


def _sharpen(blueprint: Blueprint, levels: dict[Terms, int], ceiling: int) -> None:
    """Tell totals apart more finely while the graph splits, those first whose blur costs most."""
    blurred = {terms for terms, level in levels.items() if level < EXACT}
    while blurred:
        terms = max(blurred, key=lambda terms: (_loss(blueprint, terms, levels[terms]), terms))
        finer = levels | {terms: levels[terms] + 1}
        if order_from_the_end(blueprint.outline(finer)[0], ceiling) is None:
            blurred.remove(terms)
            continue
        levels.update(finer)
        if finer[terms] == EXACT:
            blurred.remove(terms)


def _coarser(blueprint: Blueprint, terms: Terms, level: int) -> int:
    """Return the next level below that tells fewer totals apart."""
    classes = blueprint.concats[terms].classes
    return next((at for at in range(level - 1, 0, -1) if len(classes(at).start) < len(classes(level).start)), 0)


def _loss(blueprint: Blueprint, terms: Terms, level: int) -> float:
    return blueprint.concats[terms].classes(level).loss


def narrowed(problem: Problem, graph: Graph, through: Mapping[int, np.ndarray], least: float) -> Problem:
    """Return the problem without the choices through which no plan is worth `least` (reduced-cost fixing).

    `through` is float64 [n_v] per variable of the graph, the best there is with each choice. A stage that cannot go any more
    is no stage.
    """
    worth = {v: np.flatnonzero(best >= least) for v, best in through.items()}
    groups = {group.id: worth.get(i, np.arange(1)) for i, group in enumerate(problem.groups)}
    keep = {group_id: choices if len(choices) else np.arange(1) for group_id, choices in groups.items()}
    first = len(problem.groups)
    stages = [s for s, _ in enumerate(problem.stages) if 0 in worth.get(first + s, np.arange(1))]
    small = offer(problem, keep)
    return replace(small, stages=tuple(small.stages[s] for s in stages))
