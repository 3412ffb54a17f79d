"""From dense to the plan in steps: the budgets on the way, masks that nest, and the training in between.

Sources: HALP (arXiv 2210.06659, section 3.4) for the budgets, CRISP (arXiv 2311.14272, algorithm 1) for masks that are
raised step by step with straight-through training in between.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import count, islice

import numpy as np

from lut.pattern import Pattern
from pruning.check import Totals
from pruning.data import Split
from pruning.distill import Batch, Distiller, FinetuneOptions, schedule
from pruning.masked import Masks
from pruning.network import Network
from pruning.problem import Layer, Problem

EPOCHS_PER_STEP = 1 << 16
"""Each step draws its batches from epochs of its own, so that a resumed run sees the same ones."""


def scheduled(problem: Problem, dense: Totals, step: int, num_steps: int) -> Problem:
    """Return the problem with every budget where the schedule has it at a step: `dense^(1 - t/K) * budget^(t/K)`.

    Args:
        problem: with the budgets of the last step.
        dense: what the dense network costs.
        step: t, in 1..K; at K the budgets are the problem's own.
        num_steps: K.

    Raises ValueError for another step.
    """
    if not 1 <= step <= num_steps:
        raise ValueError(f"step {step} is not one of {num_steps}")

    def at(start: int, end: int) -> int:
        if step == num_steps:
            return end
        between = max(start, 1) ** (1 - step / num_steps) * max(end, 1) ** (step / num_steps)
        return max(int(between), min(start, end))  # powers of floats may fall short of both by a hair

    return replace(
        problem,
        budget_ns=at(dense.latency_ns, problem.budget_ns),
        other_budgets=tuple(
            replace(budget, limit=at(dense.other_costs[budget.id], budget.limit)) for budget in problem.other_budgets
        ),
    )


def followers(patterns: Iterable[Pattern]) -> dict[str, tuple[str, ...]]:
    """Return the patterns a layer may take after each pattern, by their names: fewer weights, in tiles that cut up its own.

    N:M comes first: what follows has the same, and tiles may only then join it.
    """

    def may(before: Pattern, after: Pattern) -> bool:
        runs = (after.n, after.m, after.shared) == (before.n, before.m, before.shared)
        cut = after.tile_out and before.tile_out % after.tile_out == 0 and before.tile_in % after.tile_in == 0
        return runs and bool(cut) and _density(after) < _density(before)

    offered = tuple(patterns)
    return {before.id: tuple(after.id for after in offered if may(before, after)) for before in offered}


def pinned(problem: Problem, patterns: Mapping[str, str], follow: Mapping[str, Collection[str]]) -> Problem:
    """Return the problem in which masked layers keep their pattern or take a follower of it, and never go back.

    Such a layer's first pattern is the one it has; what others lose is counted beside that, as its loss is a fact.

    Args:
        patterns: pattern each masked layer has, by layer; all of them are on offer.
        follow: `followers` of the patterns on offer.
    """
    return replace(problem, layers=tuple(_pinned(layer, patterns.get(layer.name), follow) for layer in problem.layers))


def _density(pattern: Pattern) -> Fraction:
    return pattern.share * Fraction(pattern.n, pattern.m)


def _pinned(layer: Layer, pattern: str | None, follow: Mapping[str, Collection[str]]) -> Layer:
    if pattern is None:
        return layer
    first = layer.patterns.index(pattern)
    take = np.array([first, *(p for p, name in enumerate(layer.patterns) if name in follow[pattern])])
    return replace(
        layer,
        patterns=tuple(layer.patterns[p] for p in take),
        value=layer.value[take] - layer.value[first],
        latency_ns=layer.latency_ns[take],
        other_costs={budget: costs[take] for budget, costs in layer.other_costs.items()},
    )


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The training between two steps."""

    network: Network
    """Masked weights have the values they have behind their mask."""
    losses: tuple[float, ...]
    """Of each mini-batch; a last one that is not finite ended the interval, and the network is as it was before."""
    learning_rate: float
    precision: str


def train_interval(
    student: Network,
    teacher: Network,
    train: Split,
    selection: Split,
    options: FinetuneOptions,
    masks: Masks,
    *,
    num_batches: int,
    step: int,
) -> Interval:
    """Return the student after `num_batches` mini-batches of distillation, its rate rising shortly and falling to zero.

    `options` with one learning rate and a precision other than `auto` are taken as they are; else both are settled first, by
    a range test as long as the interval. The same options, weights and step give the same mini-batches.
    """
    distiller = Distiller(student, teacher, train, options, masks)
    precision, images_per_s = distiller.choose_precision()
    distiller.set_precision(precision)
    rate, _ = distiller.choose_rate(selection, options.batch_size / images_per_s)
    losses: list[float] = []
    for done, batch in enumerate(islice(_batches(distiller, step), num_batches)):
        losses.append(distiller.step(batch, rate * schedule(done, num_batches)))
        if not math.isfinite(losses[-1]):
            distiller.reset()
            break
    distiller.student.module.load_state_dict(distiller.unmasked())
    distiller.set_precision("fp32")
    return Interval(
        network=distiller.student,
        losses=tuple(losses),
        learning_rate=rate,
        precision=precision,
    )


def _batches(distiller: Distiller, step: int) -> Iterator[Batch]:
    return (batch for epoch in count(step * EPOCHS_PER_STEP) for batch in distiller.batches(epoch))
