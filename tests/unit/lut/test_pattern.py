"""Patterns as numbers."""

from fractions import Fraction

import pytest

from lut.pattern import Pattern

IDS = ("dense", "2:4", "64x64@1/4", "64x1@1/4", "16x16/tap@1/2", "2:4+16x16/tap@1/2", "2:4v+64x64@1/2")


@pytest.mark.parametrize("name", IDS)
def test_a_pattern_is_its_id(name: str) -> None:
    assert Pattern.parse(name).id == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "4:2",
        "2:2",
        "64x64",
        "64x64@2/1",
        "64x64@2/8",
        "64x64@1/0",
        "0x4@1/2",
        "2:4v",
        "2:4v+8x6@1/2",
        "2:4 ",
        "٢:4",
    ],
)
def test_what_is_no_pattern_is_refused(name: str) -> None:
    with pytest.raises(ValueError):
        Pattern.parse(name)


def test_only_a_list_of_channels_shared_by_rows_and_taps_can_be_lowered() -> None:
    assert [Pattern.parse(name).lowerable for name in IDS] == [False, False, True, True, False, False, True]


def test_tiles_shrink_to_the_largest_that_divide_the_layer() -> None:
    fitted = Pattern.parse("64x64@1/2").fitted(c_in=96, c_out=24)
    assert (fitted.tile_out, fitted.tile_in) == (24, 48)
    assert Pattern.parse("2:4v+64x64@1/2").fitted(c_in=72, c_out=64).tile_in == 36
    assert Pattern.parse("16x16/tap@1/2").fitted(c_in=3, c_out=16, num_taps=9).tile_in == 9
    with pytest.raises(ValueError, match="runs"):
        Pattern.parse("2:4v+64x64@1/2").fitted(c_in=70, c_out=64)


def test_every_block_row_keeps_the_nearest_number_of_tiles_and_at_least_one() -> None:
    rows = Pattern(tile_out=8, tile_in=1, share=Fraction(1, 4))
    assert [rows.num_kept_tiles(c_in) for c_in in (1, 8, 9, 10, 11)] == [1, 2, 2, 3, 3]
    assert Pattern.parse("2:4v+8x8@1/2").num_kept_channels(32) == 8
