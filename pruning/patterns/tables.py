"""From a plan's view of patterns to a network's: which layers may have them, what they are worth, and the masks.

Letters: P = patterns beside the dense one, n_in and n_out = offered channel counts, u = units of a coupling group.
"""

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from lut.pattern import Pattern
from pruning.groups import coupling_groups
from pruning.masked import Masks
from pruning.network import ChannelCount, CouplingGroup, Keep, Network, Operator, Slot, Widths
from pruning.nodes import module_of
from pruning.patterns.masks import best_mask
from pruning.patterns.reorder import reorder
from pruning.patterns.values import value_table
from pruning.stages import build

LEAST_CHANNELS = 16
"""Layers that read or give fewer are left dense: the stem reads an image, and short lists are not worth a gather."""

Choices = Mapping[str, Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class PatternTable:
    """What the patterns of one layer keep, at every pair of offered channel counts."""

    patterns: tuple[Pattern, ...]
    value: np.ndarray
    """float64 [P, n_in, n_out], <= 0: saliency lost beside the dense layer of these widths."""
    fits: np.ndarray
    """bool [P, n_in, n_out]: False where the pattern is the dense layer, and costs as much; or only narrows (`in_effect`)."""

    def weighed(self, loss: float) -> "PatternTable":
        """Return the table in which what patterns lose counts `loss` times."""
        return replace(self, value=loss * self.value)


def maskable(network: Network, operators: Sequence[Operator]) -> dict[str, str]:
    """Return the module of every operator that may have a pattern: convolutions without groups, the stem left out.

    The classifier, depthwise convolutions and layers that read a concatenation, or the very group they give, stay dense.
    """
    targets = {node.name: str(node.target) for node in network.module.graph.nodes if node.op == "call_module"}
    modules = {node.name: module_of(network.module, node) for node in network.module.graph.nodes}
    return {
        operator.name: targets[operator.name]
        for operator in operators
        if isinstance(module := modules.get(operator.name), nn.Conv2d)
        and module.groups == 1
        and min(module.weight.shape[:2]) >= LEAST_CHANNELS
        and _simple(operator.c_in)
        and _simple(operator.c_out)
        and not (operator.c_in.terms and operator.c_in.terms == operator.c_out.terms)
    }


def in_effect(
    operators: Sequence[Operator], choices: Choices, widths: Widths, patterns: Mapping[str, str]
) -> dict[str, str]:
    """Return the patterns by operator that a plan of these widths means; the other layers are dense.

    A pattern of one block-row in a layer that alone reads its input group is nothing but a narrower group: where widths are on
    offer it is not. Solvers may still name it, at the dense layer's value and cost.
    """
    alone = _sole_readers(operators, choices)
    named = {operator.name: operator for operator in operators}
    return {
        name: pattern
        for name, pattern in patterns.items()
        if pattern != "dense"
        and not (
            name in alone
            and _is_one_row(Pattern.parse(pattern), named[name].c_in.at(widths), named[name].c_out.at(widths))
        )
    }


def _sole_readers(operators: Sequence[Operator], choices: Choices) -> frozenset[str]:
    """Return the operators that are the only reader of an input group of several offered widths."""
    readers: dict[str, list[str]] = {}
    for operator in operators:
        if operator.c_in != operator.c_out:
            for group, _ in operator.c_in.terms:
                readers.setdefault(group, []).append(operator.name)
    return frozenset(names[0] for group, names in readers.items() if len(names) == 1 and len(choices[group]) > 1)


def _is_one_row(pattern: Pattern, c_in: int, c_out: int) -> bool:
    return bool(c_in and c_out and pattern.lowerable) and c_out <= pattern.tile_out


def _simple(count: ChannelCount) -> bool:
    return not count.terms or (len(count.terms) == 1 and not count.fixed)


def pattern_tables(
    operators: Sequence[Operator],
    modules: Mapping[str, str],
    groups: Sequence[CouplingGroup],
    saliency: Mapping[str, np.ndarray],
    weights: Mapping[str, Tensor],
    patterns: Sequence[Pattern],
    choices: Choices,
    *,
    ranked: bool = True,
) -> dict[str, PatternTable]:
    """Return the tables of every operator in `modules`, by its name.

    A layer's weights are worth, all together, what the units of its input group are worth (shared with the group's other
    readers by their weights' saliency), so that channels and weights are on one scale: cutting every weight loses what
    cutting every channel loses. Layers with a fixed input go by their output group.

    Args:
        operators: of the network.
        modules: `maskable(network, operators)`.
        groups: `coupling_groups(network)`.
        saliency: float64 [u] by group: what units are worth.
        weights: float, in the shape of the weight, by module.
        patterns: lowerable ones.
        choices: offered widths by group.
        ranked: whether block-rows are cut of units in the order of their saliency; False where every unit stays in its place.
    """
    rank = {
        group: np.argsort(-values, kind="stable") if ranked else np.arange(len(values))
        for group, values in saliency.items()
    }
    slots, alone = _slots(groups), _sole_readers(operators, choices)
    scales = _scales(groups, saliency, weights)
    usual = float(np.median(list(scales.values()))) if scales else 1.0
    found = {}
    for operator in operators:
        module = modules.get(operator.name)
        if module is None:
            continue
        scores = weights[module]
        for axis, dim in (("out", 0), ("in", 1)):
            if slot := slots.get((module, axis)):
                order = rank[slot[0]]
                scores = scores.index_select(dim, torch.from_numpy(slot[1].index[order].reshape(-1)))
        c_ins, c_outs = _counts(operator.c_in, choices), _counts(operator.c_out, choices)
        value, fits = value_table(scores, patterns, c_ins, c_outs)
        dense, _ = value_table(scores, [Pattern()], c_ins, c_outs)
        if operator.name in alone:
            fits &= ~np.array([[[_is_one_row(one, i, o) for o in c_outs] for i in c_ins] for one in patterns])
            value = np.where(fits, value, dense)
        scale = scales.get((module, "in"), scales.get((module, "out"), usual))
        found[operator.name] = PatternTable(patterns=tuple(patterns), value=scale * (value - dense), fits=fits)
    return found


def plan_masks(
    network: Network,
    groups: Sequence[CouplingGroup],
    keep: Keep,
    removed: Collection[str],
    weights: Mapping[str, Tensor],
    patterns: Mapping[str, Pattern],
) -> tuple[Keep, Masks]:
    """Return the kept units in the order that serves the patterns best, and the masks of the network they make.

    Args:
        network: the dense one.
        groups: its coupling groups.
        keep: kept units by group.
        removed: stages that go.
        weights: saliency of the dense network's weights by module.
        patterns: by module that stays; the others are dense.
    """
    scored = _scored(network, {name: weights[name] for name in patterns})
    small = build(scored, groups, keep, removed)
    orders = reorder(small, coupling_groups(small), _weights(small, patterns), patterns)
    ordered = {g: units[orders[g]] if g in orders else units for g, units in keep.items()}
    final = _weights(build(scored, groups, ordered, removed), patterns)
    return ordered, {name: best_mask(final[name], pattern) for name, pattern in patterns.items()}


def _scored(network: Network, weights: Mapping[str, Tensor]) -> Network:
    """Return a copy whose weights are their own saliencies: cut and reordered with the network, they stay in step."""
    module = copy.deepcopy(network.module)
    with torch.no_grad():
        for name, saliency in weights.items():
            weight_of(module, name).copy_(saliency)
    return replace(network, module=module)


def _weights(network: Network, names: Iterable[str]) -> dict[str, Tensor]:
    return {name: weight_of(network.module, name).detach() for name in names}


def weight_of(module: nn.Module, name: str) -> Tensor:
    """Return the weight of the layer called `name`."""
    weight = module.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight


def _scales(
    groups: Sequence[CouplingGroup], saliency: Mapping[str, np.ndarray], weights: Mapping[str, Tensor]
) -> dict[tuple[str, str], float]:
    """Return what one unit of weight saliency is worth, by (module, side): units' saliency over that of their weights."""
    scales: dict[tuple[str, str], float] = {}
    for group in groups:
        for axis in ("in", "out"):
            modules = {slot.module for slot in group.slots if slot.axis == axis and slot.module in weights}
            total = sum(float(weights[module].sum(dtype=torch.float64)) for module in modules)
            if group.id in saliency and total > 0:
                scales |= {(module, axis): float(saliency[group.id].sum()) / total for module in modules}
    return scales


def _slots(groups: Sequence[CouplingGroup]) -> dict[tuple[str, str], tuple[str, Slot]]:
    """Return the group that rules each side of each module, and where; frozen ones rule nothing."""
    return {(slot.module, slot.axis): (g.id, slot) for g in groups if not g.frozen for slot in g.slots}


def _counts(count: ChannelCount, choices: Choices) -> list[int]:
    return [count.at({group: w}) for group, _ in count.terms for w in choices[group]] or [count.fixed]
