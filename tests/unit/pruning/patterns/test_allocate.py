"""Rank columns of all layers compete for one density."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lut.pattern import Pattern
from pruning.patterns.allocate import allocate as allocate_ranked
from pruning.patterns.allocate import rank
from pruning.patterns.check import check_mask
from pruning.patterns.masks import best_mask

SHAPES = {"one": (8, 32, 3, 3), "two": (16, 24, 1, 1), "three": (12, 60), "four": (4, 40, 3, 3)}
TILES = ("4x4@1/1", "8x1@1/1", "4x4/tap@1/1", "2:4+4x4@1/1", "2:4v+4x4@1/1", "2:4+4x4/tap@1/1")


def allocate(saliency: dict[str, Tensor], pattern: Pattern, density: float, floor: float) -> dict[str, Pattern]:
    return allocate_ranked(rank(saliency, pattern), density, floor)


def _network(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scales = 10 ** torch.randn(len(SHAPES), generator=generator)
    return {
        name: torch.rand(shape, generator=generator) ** 3 * scale
        for (name, shape), scale in zip(SHAPES.items(), scales, strict=True)
    }


def _kept(saliency: dict[str, Tensor], patterns: dict[str, Pattern]) -> dict[str, int]:
    masks = {name: best_mask(values, patterns[name]) for name, values in saliency.items()}
    for name, mask in masks.items():
        check_mask(mask, patterns[name])
    return {name: int(mask.sum()) for name, mask in masks.items()}


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(TILES), st.floats(0.4, 1), st.floats(0, 0.3), st.integers(0, 99))
def test_the_density_is_met_from_below_by_less_than_a_rank_column(
    name: str, density: float, floor: float, seed: int
) -> None:
    pattern = Pattern.parse(name)
    saliency = _network(seed)
    total = sum(values.numel() for values in saliency.values())
    patterns = allocate(saliency, pattern, density, floor)
    kept = _kept(saliency, patterns)
    assert sum(kept.values()) <= density * total + 1e-6
    assert all(patterns[layer].share >= floor - 1e-6 for layer in saliency)
    pruned = [layer for layer in saliency if patterns[layer].share < 1]
    largest = max(
        (saliency[layer].numel() // _num_tiles(saliency[layer], patterns[layer]) for layer in pruned), default=0
    )
    most = min(density, pattern.n / pattern.m) * total
    assert sum(kept.values()) > most - largest - 1


def _num_tiles(saliency: Tensor, fitted: Pattern) -> int:
    columns = saliency[0].numel() if fitted.per_tap else saliency.shape[1]
    return columns // fitted.tile_in


def test_the_columns_that_carry_least_of_their_layer_go_first() -> None:
    flat, steep = torch.ones(4, 4), torch.tensor([[8.0, 4.0, 2.0, 1.0]]).repeat(4, 1)
    shares = allocate({"flat": flat, "steep": steep}, Pattern.parse("4x1@1/1"), 0.75, 0.0)
    assert {name: pattern.share for name, pattern in shares.items()} == {"flat": Fraction(1), "steep": Fraction(1, 2)}


def test_rank_columns_add_the_best_tiles_of_all_block_rows() -> None:
    saliency = torch.tensor([[9.0, 1.0], [9.0, 1.0], [1.0, 9.0], [1.0, 9.0]])  # 9s in another column in each block-row
    other = torch.tensor([[5.0, 5.0]]).repeat(4, 1)
    shares = allocate({"a": saliency, "b": other}, Pattern.parse("2x1@1/1"), 0.75, 0.0)
    assert shares["a"].share == Fraction(1, 2) and shares["b"].share == 1


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(TILES), st.integers(0, 99), st.integers(-20, 20))
def test_the_scale_of_a_layer_s_saliency_decides_nothing(name: str, seed: int, power: int) -> None:
    pattern = Pattern.parse(name)
    saliency = {layer: values.double() for layer, values in _network(seed).items()}
    louder = {**saliency, "one": saliency["one"] * 2.0**power}
    assert allocate(saliency, pattern, 0.3, 0.1) == allocate(louder, pattern, 0.3, 0.1)


def test_no_layer_falls_below_its_floor_even_without_saliency() -> None:
    saliency = {"dead": torch.zeros(8, 16), "alive": torch.rand(8, 16)}
    shares = allocate(saliency, Pattern.parse("4x4@1/1"), 0.5, 0.25)
    assert min(pattern.share for pattern in shares.values()) >= Fraction(1, 4)
    assert min(p.share for p in allocate(saliency, Pattern.parse("4x4@1/1"), 0.25, 0.0).values()) >= Fraction(1, 4)


def test_a_floor_above_the_density_is_refused() -> None:
    with pytest.raises(ValueError, match="weights too many"):
        allocate({"a": torch.rand(8, 16)}, Pattern.parse("4x4@1/1"), 0.25, 0.5)
    with pytest.raises(ValueError, match="weights too many"):
        allocate({"a": torch.rand(8, 4)}, Pattern.parse("4x4@1/1"), 0.5, 0.0)


def test_n_of_m_counts_towards_the_density() -> None:
    saliency = {"a": torch.rand(8, 16)}
    assert allocate(saliency, Pattern.parse("2:4+4x4@1/1"), 0.5, 0.0)["a"].share == 1
    assert allocate(saliency, Pattern.parse("2:4+4x4@1/1"), 0.25, 0.0)["a"].share == Fraction(1, 2)


def test_what_cannot_be_allocated_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"layer a: .*runs"):
        allocate({"a": torch.rand(8, 6)}, Pattern.parse("2:4v+4x4@1/2"), 0.5, 0.0)
    for density, floor in ((0.0, 0.0), (0.5, 1.5)):
        with pytest.raises(ValueError, match="wants a density"):
            allocate({"a": torch.rand(8, 8)}, Pattern.parse("4x4@1/2"), density, floor)
    with pytest.raises(ValueError, match="has none"):
        rank({"a": torch.rand(8, 8)}, Pattern.parse("2:4"))
