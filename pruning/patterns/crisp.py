"""CRISP's own way to a budget, for comparison: rank columns of all layers compete for one density, blind to what they cost.

Source: CRISP, arXiv 2311.14272, section III. The paper has a density to reach; here it falls until the tables' latency
keeps the budgets.
"""

from collections.abc import Mapping

from torch import Tensor

from lut.pattern import Pattern
from pruning.patterns.allocate import allocate, rank
from pruning.problem import Layer, Plan, Problem
from pruning.solve.answer import Run
from pruning.solve.baselines import fits, judged
from pruning.solve.build import build_graph
from pruning.solve.factors import Choice

DENSITIES = tuple(percent / 100 for percent in range(100, 0, -1))


def crisp(
    problem: Problem,
    *,
    weights: Mapping[str, Tensor],
    floor: float,
    seed: int = 0,
    tolerance: float = 1e-3,
    time_limit_s: float = 30.0,
) -> Plan:
    """Return the plan of the largest density whose allocation keeps every budget; `unknown` when none does.

    All channels stay. Every layer takes the sparsest pattern on offer that keeps at least the share it is allocated, all of
    one size of tiles: that of the first pattern on offer.

    Args:
        weights: saliency of each layer's weights, by the layer's name in the problem.
        floor: least share of tiles of each layer.
    """
    run = Run(solver="crisp", seed=seed, tolerance=tolerance, time_limit_s=time_limit_s)
    layers = {layer.name: layer for layer in problem.layers if layer.name in weights and layer.patterns != ("dense",)}
    tiles = next((one for layer in layers.values() for one in map(Pattern.parse, layer.patterns) if one.tile_out), None)
    widths = {group.id: group.widths[-1] for group in problem.groups}
    choice = Choice(widths=widths)
    if tiles is None:
        return judged(build_graph(problem), choice if fits(problem, choice.totals(problem)) else None, run)
    columns = rank({name: weights[name] for name in layers}, tiles)
    for density in DENSITIES:
        try:
            shares = allocate(columns, density, floor)
        except ValueError:
            break  # the floors alone keep more
        choice = Choice(widths=widths, patterns={name: _snapped(layers[name], tiles, shares[name]) for name in layers})
        if fits(problem, choice.totals(problem)):
            return judged(build_graph(problem), choice, run)
    return judged(build_graph(problem), None, run)


def _snapped(layer: Layer, tiles: Pattern, wanted: Pattern) -> str:
    """Return the sparsest pattern of a layer that keeps the wanted share, or the one that keeps most."""
    size = (tiles.tile_out, tiles.tile_in, tiles.n, tiles.m)
    every = map(Pattern.parse, layer.patterns)
    offered = [one for one in every if one.is_dense or (one.tile_out, one.tile_in, one.n, one.m) == size]
    enough = [one for one in offered if one.share >= wanted.share]
    return min(enough, key=lambda one: one.share).id if enough else max(offered, key=lambda one: one.share).id
