"""Networks that the solver makes by a latency table's word: what a table is calibrated on and judged by, beside random ones.

A plan leans on the entries that look cheapest, and lacks branches (winner's curse, method section 9). Letters: u = units of a
coupling group.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from lut.pattern import Pattern
from lut.table import LatencyTable
from pruning.lower.rewrite import lower
from pruning.masked import Masks
from pruning.network import CouplingGroup, Keep, Network, Operator
from pruning.patterns.tables import in_effect, maskable, pattern_tables, plan_masks, weight_of
from pruning.predict import predicted_us
from pruning.solve import solve
from pruning.stages import build, removable_stages
from pruning.tables import Choices, best_units, build_problem, group_values, latency_limit
from pruning.variants import LEAST_SHARE, Variant

TIME_LIMIT_S = 5.0
"""For each plan; what is found by then is as good for this."""


def planned_variants(
    network: Network,
    groups: Sequence[CouplingGroup],
    costs: Sequence[Operator],
    table: LatencyTable,
    choices: Choices,
    shares: Sequence[float],
    patterns: Sequence[Pattern] = (),
    *,
    masked_every: int = 2,
    seed: int = 0,
) -> Iterator[tuple[float, Variant]]:
    """Yield the networks that the solver chose by this table's word, with their share: one for each of `shares` that can be met.

    Saliencies are random (exponential), others for each. As in jobs, no group goes below a quarter.

    Args:
        network: the dense one.
        groups: its coupling groups.
        costs: its operators.
        table: covers the network at `choices`.
        choices: offered widths by group.
        shares: budgets, of the dense network's latency by the table's word.
        patterns: lowerable ones.
        masked_every: 1 to offer patterns for every plan, 2 for every second.
        seed: of everything that is drawn; one plan does not depend on the others.
    """
    modules, stages = maskable(network, costs), removable_stages(network, groups, costs)
    dense = {group.id: group.units for group in groups}
    dense_us = predicted_us(costs, dense, table)
    choices = {g: [w for w in widths if w >= LEAST_SHARE * dense[g]] for g, widths in choices.items()}
    for number, share in enumerate(shares):
        random = np.random.default_rng([seed, number])
        units = {group.id: random.exponential(size=group.units) for group in groups}
        masked = bool(patterns) and number % masked_every == masked_every - 1
        weights = _weights(network, modules, random) if masked else {}
        offered = pattern_tables(costs, modules, groups, units, weights, patterns, choices) if masked else {}
        limit = latency_limit(table, int(share * dense_us * 1e3))
        problem = build_problem(costs, choices, group_values(units, choices), limit, stages=stages, patterns=offered)
        plan = solve(problem, seed=seed, time_limit_s=TIME_LIMIT_S)
        if plan.found:
            meant = in_effect(costs, choices, plan.widths, plan.patterns)
            chosen = {name: Pattern.parse(pattern) for name, pattern in meant.items()}
            keep: Keep = best_units(units, plan.widths)
            masks: Masks = {}
            if chosen:
                by_module = {modules[name]: pattern for name, pattern in chosen.items()}
                keep, masks = plan_masks(network, groups, keep, plan.removed, weights, by_module)
            small = build(network, groups, keep, plan.removed)
            small = lower(small, masks) if masks else small
            told_us = plan.latency_ns / 1e3
            yield share, Variant(network=small, widths=plan.widths, patterns=chosen, told_us=told_us)


def _weights(network: Network, modules: Mapping[str, str], random: np.random.Generator) -> dict[str, torch.Tensor]:
    """Return random saliencies of the weights that may be masked: float32 in their shapes, by module."""
    generator = torch.Generator().manual_seed(int(random.integers(2**31)))
    shapes = {name: weight_of(network.module, name).shape for name in modules.values()}
    return {name: torch.rand(shape, generator=generator) ** 4 for name, shape in shapes.items()}
