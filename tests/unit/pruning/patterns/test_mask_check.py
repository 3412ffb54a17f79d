"""A mask that breaks its pattern is caught, and the broken invariant named."""

import pytest
import torch
from torch import Tensor

from lut.pattern import Pattern
from pruning.patterns.check import INVARIANTS, MaskError, check_mask


def _mask(*rows: str) -> Tensor:
    return torch.tensor([[character == "x" for character in row] for row in rows])


GOOD = [
    ("2:4", _mask("xx..x.x", ".x.xxx.")),
    ("2x2@1/2", _mask("xx..", "xx..", "..xx", "..xx")),
    ("2x1@1/2", _mask("x..x", "x..x", ".xx.", ".xx.")),
    ("1:2+2x2@1/2", _mask("x...", ".x..", "..x.", "..x.")),
    ("1:2v+2x2@1/2", _mask("x...", "x...", "...x", "...x")),
]
BAD = [
    ("runs", "2:4", _mask("xxx.", "xx..")),
    ("runs", "2:4", _mask("xx..", ".x..")),
    ("runs", "2:4", _mask("xx...", "xx..x")),
    ("tiles", "2x2@1/2", _mask("xx..", "xx..", "xxxx", "xxxx")),
    ("tiles", "2x2@1/2", _mask("xx..", "xx..", "....", "....")),
    ("tiles", "2x2@1/2", _mask("x.x.", "....", "xx..", "xx..")),
    ("purity", "2x2@1/2", _mask("xx..", "x...", "..xx", "..xx")),
    ("runs", "1:2+2x2@1/2", _mask("xx..", ".x..", "..x.", "..x.")),
    ("tiles", "1:2+2x2@1/2", _mask("x...", "..x.", "..x.", "..x.")),
    ("lists", "1:2v+2x2@1/2", _mask("x...", ".x..", "...x", "...x")),
    ("empty", "2:4", _mask("....")),
    ("fits", "1:2v+2x2@1/2", _mask("x..", "x..")),
    ("dtype", "2:4", torch.ones(2, 4)),
    ("shape", "2:4", torch.ones(4, dtype=torch.bool)),
    ("density", "dense", _mask("xx.x", "xxxx")),
]


@pytest.mark.parametrize(("name", "mask"), GOOD)
def test_a_mask_that_obeys_its_pattern_passes(name: str, mask: Tensor) -> None:
    check_mask(mask, Pattern.parse(name))
    check_mask(mask, Pattern.parse(name), nested=True)


@pytest.mark.parametrize(("invariant", "name", "mask"), BAD)
def test_the_broken_invariant_is_named(invariant: str, name: str, mask: Tensor) -> None:
    with pytest.raises(MaskError, match=f"^{invariant}: ") as caught:
        check_mask(mask, Pattern.parse(name))
    assert caught.value.invariant == invariant


def test_every_invariant_is_broken_by_some_mask() -> None:
    assert {invariant for invariant, _, _ in BAD} == set(INVARIANTS)


def test_taps_of_a_lowerable_pattern_share_one_list() -> None:
    mask = torch.zeros(2, 4, 1, 2, dtype=torch.bool)
    mask[:, :2] = True
    check_mask(mask, Pattern.parse("2x1@1/2"))
    mask[0, 0, 0, 0] = False
    with pytest.raises(MaskError, match="purity"):
        check_mask(mask, Pattern.parse("2x1@1/2"))


def test_a_nested_mask_may_keep_less_but_never_more() -> None:
    pattern = Pattern.parse("2x2@1/2")
    check_mask(_mask("x...", "....", "..xx", "..xx"), pattern, nested=True)
    with pytest.raises(MaskError, match="tiles"):
        check_mask(_mask("x.x.", "....", "..xx", "..xx"), pattern, nested=True)


@pytest.mark.parametrize("name", [name for name, _ in GOOD])
@pytest.mark.parametrize("position", range(3))
def test_one_weight_more_is_always_noticed(name: str, position: int) -> None:
    mask = dict(GOOD)[name].clone()
    row, column = torch.nonzero(~mask)[position].tolist()
    mask[row, column] = True
    with pytest.raises(MaskError):
        check_mask(mask, Pattern.parse(name))
