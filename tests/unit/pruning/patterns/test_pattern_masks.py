"""The best mask of a layer: exact, balanced, nested."""

from fractions import Fraction
from itertools import combinations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lut.pattern import Pattern
from pruning.patterns.check import check_mask
from pruning.patterns.masks import best_mask, unstructured_mask

KINDS = (
    "dense", "2:4", "1:4", "3:5", "8x8@1/2", "4x1@1/4", "4x2@1/3", "1x4@1/2", "4x4/tap@1/2", "2:4+4x4@1/2",
    "1:2+4x4/tap@1/3", "2:3+4x1@1/2", "2:4v+4x4@1/2", "1:2v+8x4@1/3",
)  # fmt: skip


def _saliency(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _fits(pattern: Pattern, shape: tuple[int, ...]) -> bool:
    return not pattern.shared or shape[1] % pattern.m == 0


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(KINDS), st.integers(1, 13), st.integers(1, 13), st.sampled_from([(), (1, 1), (3, 3), (1, 2)]),
    st.integers(0, 999), st.booleans(),
)  # fmt: skip
def test_the_best_mask_obeys_its_pattern(
    name: str, c_out: int, c_in: int, kernel: tuple[int, ...], seed: int, ties: bool
) -> None:
    pattern, saliency = Pattern.parse(name), _saliency((c_out, c_in, *kernel), seed)
    if ties:
        saliency = (3 * saliency).floor()
    if _fits(pattern, saliency.shape):
        check_mask(best_mask(saliency, pattern), pattern)
    else:
        with pytest.raises(ValueError, match="whole runs"):
            best_mask(saliency, pattern)


def _runs(length: int, n: int, m: int) -> list[tuple[int, ...]]:
    """Every way to keep n of each m consecutive of `length`, as the kept positions."""
    choices = []
    for start in range(0, length, m):
        run = range(start, min(start + m, length))
        choices.append(list(combinations(run, min(n, len(run)))))
    return [sum(choice, ()) for choice in product(*choices)]


def _best_of_block_row(rows: Tensor, pattern: Pattern) -> float:
    """Most saliency any mask of the pattern keeps of a block-row [B, I, T], by trying all of them."""
    b, c_in, num_taps = rows.shape
    columns = rows.transpose(1, 2).reshape(b, -1) if pattern.per_tap else rows
    tiles = columns.shape[1] // pattern.tile_in if pattern.tile_out else 1
    width = columns.shape[1] // tiles
    count = pattern.num_kept_tiles(c_in, num_taps) if pattern.tile_out else 1
    best = 0.0
    for kept in combinations(range(tiles), count):
        stays = torch.zeros(columns.shape[:2], dtype=torch.bool)
        for tile in kept:
            stays[:, tile * width : (tile + 1) * width] = True
        stays = stays.reshape(b, num_taps, c_in).transpose(1, 2) if pattern.per_tap else stays[..., None]
        left = rows * stays
        by_row_and_tap = left.transpose(1, 2).reshape(b * num_taps, c_in)
        lines = by_row_and_tap.sum(dim=0, keepdim=True) if pattern.shared else by_row_and_tap
        choices = _runs(c_in, pattern.n, pattern.m)
        best = max(best, sum(max(float(line[list(choice)].sum()) for choice in choices) for line in lines))
    return best


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("2:4", (3, 7, 1, 2)), ("1:4", (4, 6)), ("2:4", (2, 8, 3, 3)), ("4x2@1/2", (8, 8, 1, 2)), ("2x1@1/3", (4, 9)),
        ("3x1@1/4", (6, 8, 3, 3)), ("2x3/tap@1/2", (4, 6, 1, 2)), ("2x4/tap@1/3", (4, 3, 2, 2)),
        ("2:4+2x4@1/2", (4, 8, 1, 2)), ("1:2+2x2/tap@1/2", (4, 4, 1, 3)), ("1:3+2x3@2/3", (2, 9)),
        ("2:4v+2x4@1/2", (4, 8, 1, 2)), ("1:2v+3x4@1/2", (6, 8, 1, 2)), ("1:2v+2x2@2/3", (4, 6)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("seed", [0, 1])
def test_no_mask_of_the_pattern_keeps_more(name: str, shape: tuple[int, ...], seed: int) -> None:
    pattern, saliency = Pattern.parse(name), _saliency(shape, seed).square()
    layer = saliency.reshape(*shape[:2], -1)
    fitted = pattern.fitted(layer.shape[1], layer.shape[0], layer.shape[2])
    rows = layer.split(fitted.tile_out or 1)
    expected = sum(_best_of_block_row(block, fitted) for block in rows)
    assert float(saliency[best_mask(saliency, pattern)].sum()) == pytest.approx(expected, rel=1e-12)


def test_a_last_short_run_keeps_as_many_as_it_has() -> None:
    kept = best_mask(
        torch.tensor([[1.0, 2.0, 3.0, 4.0, 1.0, 1.0, 9.0], [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]]), Pattern(n=2, m=4)
    )
    assert kept.int().tolist() == [[0, 0, 1, 1, 1, 0, 1], [1, 1, 0, 0, 1, 1, 0]]
    assert best_mask(torch.rand(2, 5), Pattern(n=2, m=4))[:, 4:].all()


def test_tiles_of_one_tap_are_cut_tap_by_tap() -> None:
    saliency = torch.zeros(2, 2, 1, 3)
    saliency[:, :, 0, 1] = 1  # both input channels of the middle tap: columns 2 and 3
    kept = best_mask(saliency, Pattern.parse("2x2/tap@1/3"))
    assert torch.equal(kept, saliency > 0)


@pytest.mark.parametrize("name", KINDS)
def test_ties_go_to_the_lower_index(name: str) -> None:
    pattern = Pattern.parse(name)
    kept = best_mask(torch.ones(8, 20 if pattern.m == 5 else 12, 1, 2), pattern)
    assert torch.equal(kept, best_mask(torch.ones(8, kept.shape[1], 1, 2), pattern))
    assert kept[0, 0, 0, 0]
    if pattern.m == 1 and not pattern.per_tap:
        channels = kept.any(dim=(0, 2, 3))
        assert channels.tolist() == sorted(channels.tolist(), reverse=True)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.sampled_from(KINDS), st.integers(0, 99))
def test_a_mask_within_another_keeps_a_part_of_it_and_obeys_its_pattern(first: str, second: str, seed: int) -> None:
    saliency = _saliency((8, 20 if "3:5" in (first, second) else 24, 1, 2), seed)
    if not all(_fits(Pattern.parse(name), saliency.shape) for name in (first, second)):
        return
    outer = best_mask(saliency, Pattern.parse(first))
    inner = best_mask(saliency, Pattern.parse(second), within=outer)
    assert not (inner & ~outer).any()
    check_mask(inner, Pattern.parse(second), nested=True)


@pytest.mark.parametrize("name", ["4x4@1/1", "2:4+4x4@1/1", "2:4v+4x4@1/1", "4x1@1/1", "2:4+4x4/tap@1/1"])
def test_masks_of_a_falling_share_nest_and_lose_nothing(name: str) -> None:
    tiles = Pattern.parse(name)
    saliency, mask = _saliency((8, 16, 1, 2)), None
    for share in (Fraction(1), Fraction(3, 4), Fraction(1, 2), Fraction(1, 4)):
        pattern = Pattern(**{**tiles.__dict__, "share": share})
        mask = best_mask(saliency, pattern, within=mask)
        check_mask(mask, pattern)
        assert torch.equal(mask, best_mask(saliency, pattern))


def test_the_best_subset_of_a_mask_is_found() -> None:
    saliency = _saliency((1, 4))
    outer = torch.tensor([[True, False, True, True]])
    for n in (1, 2, 3):
        kept = best_mask(saliency, Pattern(n=n, m=4), within=outer)
        expected = torch.topk(saliency.masked_fill(~outer, 0), n).values.sum()
        assert float(saliency[kept].sum()) == pytest.approx(float(expected))


def test_a_dead_block_row_keeps_what_the_earlier_mask_left_of_it() -> None:
    outer = torch.zeros(4, 8, dtype=torch.bool)
    outer[:, 4:] = True
    kept = best_mask(torch.zeros(4, 8), Pattern.parse("4x2@1/4"), within=outer)
    assert torch.equal(kept.any(dim=0), torch.arange(8).div(2, rounding_mode="floor") == 2)


def test_block_scores_are_written_to_the_tiles_they_belong_to() -> None:
    """A known slip of published code writes them to transposed positions, which is as good as chance."""
    generator = torch.Generator().manual_seed(0)
    num_tiles = 32
    scale = torch.exp(2.5 * torch.randn(num_tiles, num_tiles, generator=generator))
    saliency = torch.rand(512, 512, generator=generator) * scale.repeat_interleave(16, 0).repeat_interleave(16, 1)
    pattern, runs = Pattern.parse("2:4+16x16@19/32"), best_mask(saliency, Pattern(n=2, m=4))
    tiles = best_mask(saliency, pattern).reshape(num_tiles, 16, num_tiles, 16).any(dim=3).any(dim=1)
    kept = float(saliency[best_mask(saliency, pattern)].sum() / saliency[runs].sum())
    transposed = tiles.T.repeat_interleave(16, 0).repeat_interleave(16, 1) & runs
    assert kept > 0.9
    assert float(saliency[transposed].sum() / saliency[runs].sum()) < 0.7


def test_the_same_saliency_gives_the_same_mask_whatever_the_seed() -> None:
    saliency = _saliency((16, 16, 3, 3))
    pattern = Pattern.parse("2:4+8x8/tap@1/2")
    torch.manual_seed(1)
    first = best_mask(saliency, pattern)
    torch.manual_seed(2)
    assert torch.equal(first, best_mask(saliency, pattern))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.floats(0.01, 1), st.integers(0, 99))
def test_an_unstructured_mask_keeps_the_largest(c_out: int, c_in: int, density: float, seed: int) -> None:
    saliency = (8 * _saliency((c_out, c_in), seed)).floor()
    mask = unstructured_mask(saliency, density)
    count = max(1, round(density * saliency.numel()))
    order = torch.sort(saliency.flatten(), descending=True, stable=True).indices[:count]
    assert torch.equal(mask.flatten().nonzero().flatten(), order.sort().values)


@pytest.mark.parametrize(
    "saliency",
    [torch.ones(4), torch.ones(0, 4), -torch.ones(4, 4), torch.full((4, 4), torch.nan), torch.full((4, 4), torch.inf)],
)
def test_what_is_no_saliency_of_a_layer_is_refused(saliency: Tensor) -> None:
    with pytest.raises(ValueError, match="saliency"):
        best_mask(saliency, Pattern(n=2, m=4))
    with pytest.raises(ValueError):
        unstructured_mask(saliency, 0.5)


def test_an_earlier_mask_of_another_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="earlier"):
        best_mask(torch.rand(4, 4), Pattern(n=2, m=4), within=torch.ones(4, 5, dtype=torch.bool))
