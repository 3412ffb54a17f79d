"""Value tables are what the best mask keeps at every width."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lut.pattern import Pattern
from pruning.patterns.masks import best_mask
from pruning.patterns.values import value_table

NAMES = (
    "dense", "2:4", "1:3", "4x1@1/4", "8x4@1/2", "4x4/tap@1/3", "2:4+4x4@1/2", "2:3+4x4/tap@1/2", "2:4v+8x8@1/2",
    "1:2v+3x4@1/3", "2:4+4x1@1/2",
)  # fmt: skip
PATTERNS = [Pattern.parse(name) for name in NAMES]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 14), st.integers(1, 14), st.sampled_from([(), (1, 1), (1, 3)]), st.integers(0, 99), st.booleans())
def test_every_entry_is_the_saliency_under_the_best_mask_of_that_corner(
    c_out: int, c_in: int, kernel: tuple[int, ...], seed: int, ties: bool
) -> None:
    saliency = torch.rand((c_out, c_in, *kernel), generator=torch.Generator().manual_seed(seed))
    if ties:
        saliency = (3 * saliency).floor()
    c_ins, c_outs = range(c_in + 1), range(c_out + 1)
    values, fits = value_table(saliency, PATTERNS, c_ins, c_outs)
    assert values.shape == fits.shape == (len(PATTERNS), len(c_ins), len(c_outs)) and values.dtype == np.float64
    for p, pattern in enumerate(PATTERNS):
        for i in c_ins:
            for j in c_outs:
                corner = saliency[:j, :i]
                kept = torch.ones_like(corner, dtype=torch.bool)
                if corner.numel() and not (pattern.shared and i % pattern.m):
                    kept = best_mask(corner, pattern)
                assert values[p, i, j] == pytest.approx(float(corner[kept].double().sum()), rel=1e-9, abs=1e-9)
                assert fits[p, i, j] == (not kept.all())


def test_a_pattern_that_does_not_fit_has_the_dense_value_and_says_so() -> None:
    values, fits = value_table(torch.ones(8, 8), [Pattern.parse("2:4v+8x8@1/2"), Pattern.parse("2:4")], [6, 8], [8])
    assert fits[:, :, 0].tolist() == [[False, True], [True, True]]
    assert values[:, :, 0].tolist() == [[48, 32], [32, 32]]


def test_the_dense_pattern_is_worth_all_of_the_corner() -> None:
    saliency = torch.arange(12.0).reshape(3, 4)
    values, fits = value_table(saliency, [Pattern()], [1, 4], [2, 3])
    assert values.tolist() == [[[4.0, 12.0], [28.0, 66.0]]] and not fits.any()


@pytest.mark.parametrize(("c_ins", "c_outs"), [([5], [3]), ([4], [4]), ([-1], [3])])
def test_widths_beyond_the_layer_are_refused(c_ins: list[int], c_outs: list[int]) -> None:
    with pytest.raises(ValueError, match="widths"):
        value_table(torch.ones(3, 4), PATTERNS, c_ins, c_outs)
