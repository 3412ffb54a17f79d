"""The schedule as data: N:M first, then fewer tiles."""

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lut.pattern import Pattern
from pruning.patterns.schedule import stages

HYBRID = Pattern.parse("2:4+16x16/tap@1/2")


def test_n_of_m_comes_first_with_all_tiles_and_tiles_go_in_even_steps() -> None:
    found = stages(HYBRID, 0.125, 4)
    assert [stage.pattern.share for stage in found] == [1, Fraction(3, 4), Fraction(1, 2), Fraction(1, 4)]
    assert [stage.density for stage in found] == [0.5, 0.375, 0.25, 0.125]
    assert {(stage.pattern.n, stage.pattern.m, stage.pattern.tile_in) for stage in found} == {(2, 4, 16)}


def test_without_n_of_m_the_first_step_already_prunes_tiles() -> None:
    assert [stage.pattern.id for stage in stages(Pattern.parse("64x1@1/8"), 0.25, 3)] == [
        "64x1@3/4",
        "64x1@1/2",
        "64x1@1/4",
    ]


def test_one_step_goes_to_the_density_at_once() -> None:
    (only,) = stages(HYBRID, 0.125, 1)
    assert only.pattern.id == "2:4+16x16/tap@1/4" and only.density == 0.125


def test_where_n_of_m_is_all_there_is_one_stage() -> None:
    assert [stage.pattern.id for stage in stages(Pattern.parse("2:4"), 0.5, 5)] == ["2:4"]
    assert [stage.pattern.share for stage in stages(HYBRID, 0.5, 5)] == [1]


@given(st.floats(0.01, 0.5), st.integers(1, 12))
def test_density_falls_from_stage_to_stage_and_ends_where_it_should(density: float, num_steps: int) -> None:
    found = stages(HYBRID, density, num_steps)
    assert 1 <= len(found) <= num_steps
    assert all(one.density > other.density for one, other in pairwise(found))
    assert found[-1].density == pytest.approx(density, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "density", "num_steps"),
    [("2:4+16x16@1/2", 0.6, 3), ("2:4", 0.25, 3), ("64x1@1/2", 0.0, 3), ("64x1@1/2", 0.5, 0)],
)
def test_what_cannot_be_reached_is_refused(name: str, density: float, num_steps: int) -> None:
    with pytest.raises(ValueError, match="cannot reach"):
        stages(Pattern.parse(name), density, num_steps)
