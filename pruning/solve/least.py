"""The least a budget can be: what an infeasible plan reports, and what every other plan could still save."""

from dataclasses import dataclass

import numpy as np

from pruning.problem import Problem
from pruning.solve.factors import Choice, Graph
from pruning.solve.order import ENTRIES_CEILING, DoesNotSplitError
from pruning.solve.price import Pricer
from pruning.solve.relax import narrowed, sharpest

EXACT_ENTRIES = ENTRIES_CEILING
CEILING = 1 << 18
"""Table entries of relaxed graphs."""
MAX_ROUNDS = 12
"""Relaxed graphs tried per budget; each leaves few choices to the next."""


@dataclass(frozen=True, kw_only=True)
class Least:
    """Least costs that some choice reaches, without the fixed costs, each budget alone."""

    cost: np.ndarray
    """int64 [K]."""
    proven: bool = True
    """Whether nothing undercuts them."""
    choices: tuple[Choice, ...] = ()
    """What reaches them, where it had to be searched for."""


def least_costs(problem: Problem, graph: Graph) -> Least:
    """Return the least cost of every budget over all choices, by exact pricing where the graph (or what is left of it) splits."""
    try:
        pricer = Pricer(graph, EXACT_ENTRIES)
    except DoesNotSplitError:
        found = [_least_of(problem, graph, k) for k in range(len(graph.limits))]
        return Least(
            cost=np.array([true_costs(problem, choice)[k] for k, (choice, _) in enumerate(found)], dtype=np.int64),
            proven=all(proven for _, proven in found),
            choices=tuple(choice for choice, _ in found),
        )
    return Least(cost=np.array([_cheapest(pricer, k)[1] for k in range(len(graph.limits))]))


def _cheapest(pricer: Pricer, k: int) -> tuple[Choice, int]:
    """Return the choice of least cost in budget k, and that cost by the graph's tables."""
    unit = np.eye(len(pricer.graph.limits))[k]
    choice, pattern = pricer.choose(pricer.price(unit, value_weight=0.0), unit, value_weight=0.0)
    return pricer.graph.decode(choice, pattern), int(pricer.totals(choice, pattern)[1][k])


def _least_of(problem: Problem, graph: Graph, k: int) -> tuple[Choice, bool]:
    """Return the cheapest choice known in budget k, and whether it is proven: fix what cannot be cheaper, look more sharply, again."""
    unit = np.eye(len(graph.limits))[k]
    best, left = Choice(widths={group.id: group.widths[0] for group in problem.groups}), problem
    least = true_costs(problem, best)[k]
    for _ in range(MAX_ROUNDS):
        try:
            pricer = sharpest(left, best.widths, CEILING)
        except DoesNotSplitError:
            return best, int(graph.least_costs()[k]) == least
        choice, bound = _cheapest(pricer, k)
        if (cost := true_costs(problem, choice)[k]) < least:
            best, least = choice, cost
        if bound >= least:
            return best, True
        through = pricer.best_through(pricer.price(unit, value_weight=0.0))
        smaller = narrowed(left, pricer.graph, through, 1.0 - least)
        if _num_choices(smaller) == _num_choices(left):
            break
        left = smaller
    return best, False


def true_costs(problem: Problem, choice: Choice) -> list[int]:
    """Return the costs of a choice by the problem's own tables, without the fixed costs."""
    totals = choice.totals(problem)
    others = [totals.other_costs[budget.id] - budget.fixed for budget in problem.other_budgets]
    return [totals.latency_ns - problem.fixed_latency_ns, *others]


def _num_choices(problem: Problem) -> int:
    return sum(len(group.widths) for group in problem.groups) + len(problem.stages)
