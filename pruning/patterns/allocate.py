"""How dense each layer stays: rank columns of all layers compete for one global density (CRISP, section III).

A rank column: the tiles of a layer that come r-th in their block-rows, one from each, so that block-rows stay balanced.
Letters: R = block-rows, K = tiles of a block-row = rank columns of a layer.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

from lut.pattern import Pattern
from pruning.patterns.masks import as_layer, survivors, tile_sums

_ROUNDING = 1e-6
"""What products of shares and counts may be off by."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One layer's rank columns, best first, after N:M."""

    fitted: Pattern
    scores: list[float]
    """[K]: saliency of each column over the layer's mean column."""
    weights: list[int]
    """[K]: weights each column keeps."""
    size: int
    """Weights of the dense layer."""


def rank(saliency: Mapping[str, Tensor], pattern: Pattern) -> dict[str, Ranked]:
    """Return the rank columns of every layer, by its name.

    Args:
        saliency: of each layer to mask, as in `best_mask`.
        pattern: with tiles; its share is ignored.

    Raises ValueError for a pattern without tiles, and for a layer the pattern does not fit.
    """
    if not pattern.tile_out:
        raise ValueError(f"rank columns are of tiles: {pattern.id} has none")
    return {name: _ranked(name, values, pattern) for name, values in saliency.items()}


def allocate(layers: Mapping[str, Ranked], density: float, floor: float) -> dict[str, Pattern]:
    """Return the pattern of each layer, fitted and with a share of its own, that together keep `density` of the weights.

    Rank columns go in ascending order of their normalised score until the kept weights of all layers, N:M included, are
    at most `density` of all: within one rank column, or less where N:M alone takes more. The score is a column's
    saliency after N:M over that of the layer's mean column, so that neither the scale of a layer's saliency nor its
    size decides; a layer without any saliency counts as flat. Ties go to the layer that is named first.

    Args:
        layers: as `rank` gives them.
        density: kept weights over all weights of these layers, in (0, 1].
        floor: least share of tiles each layer keeps, in [0, 1]; one rank column stays in any case.

    Raises ValueError for numbers out of range, and when the floor alone keeps more than `density`.
    """
    if not 0 < density <= 1 or not 0 <= floor <= 1:
        raise ValueError(f"wants a density in (0, 1] and a floor in [0, 1]: {density}, {floor}")
    least = {name: max(1, math.ceil(floor * len(layer.scores) - _ROUNDING)) for name, layer in layers.items()}
    left = {name: len(layer.scores) for name, layer in layers.items()}
    excess = sum(sum(x.weights) for x in layers.values())
    excess -= math.floor(density * sum(x.size for x in layers.values()) + _ROUNDING)
    columns = (
        (score, place, -rank, name)
        for place, (name, layer) in enumerate(layers.items())
        for rank, score in enumerate(layer.scores)
        if rank >= least[name]
    )
    for _, _, rank, name in sorted(columns):
        if excess <= 0:
            break
        left[name] = -rank
        excess -= layers[name].weights[-rank]
    if excess > 0:
        raise ValueError(f"no density of {density}: a floor of {floor} keeps {excess} weights too many")
    return {name: replace(x.fitted, share=Fraction(left[name], len(x.scores))) for name, x in layers.items()}


def _ranked(name: str, saliency: Tensor, pattern: Pattern) -> Ranked:
    try:
        layer = as_layer(saliency)
        fitted = pattern.fitted(layer.shape[1], layer.shape[0], layer.shape[2])
    except ValueError as error:
        raise ValueError(f"layer {name}: {error}") from error
    kept = survivors(layer, fitted)
    ranked = torch.sort(tile_sums(torch.where(kept, layer, 0), fitted), dim=1, descending=True, stable=True)
    scores = ranked.values.sum(dim=0)
    mean = float(scores.mean())
    return Ranked(
        fitted=fitted,
        scores=(scores / mean).tolist() if mean > 0 else [1.0] * len(scores),
        weights=[round(x) for x in tile_sums(kept, fitted).gather(1, ranked.indices).sum(dim=0).tolist()],
        size=layer.numel(),
    )
