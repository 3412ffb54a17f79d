"""The coarse grid is small, contains its corners, and grows exactly where interpolation fails."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lut.interpolate import Pieces, Surface
from lut.measure.grid import GridPlan, first_plans
from lut.pieces import cut_of
from lut.request import GridRequest
from lut.signature import OpSignature

CONV = OpSignature(kind="conv", height=8, width=8)
COUNTS = tuple(range(16, 513, 16))
REQUEST = GridRequest(signature=CONV, c_ins=COUNTS, c_outs=COUNTS)


def first_plan(request: GridRequest, step: int) -> GridPlan:
    (plan,) = first_plans(request, step)
    return plan


def measured(plan_points: list[tuple[int, int]], bend: int = 10**9) -> dict[tuple[int, int], float]:
    return {(i, o): 1.0 + 0.01 * i + 0.02 * o + 0.05 * max(0, o - bend) for i, o in plan_points}


def test_a_plane_needs_a_handful_of_points_and_no_second_pass() -> None:
    plan = first_plan(REQUEST, 16)
    points = plan.points() + plan.probes()
    assert len(points) <= 17 < len(REQUEST.pairs()) / 50
    assert plan.refined(measured(points), 0.04) == plan


def test_what_interpolation_misses_is_told_at_every_probe() -> None:
    plan = first_plan(REQUEST, 16)
    misses = plan.misses_us(measured(plan.points() + plan.probes(), bend=400))
    assert misses.keys() == set(plan.probes())
    assert {o > 300 for (_, o), missed_us in misses.items() if missed_us > 1e-9} == {True}


def test_a_bend_gets_a_line_where_it_is_and_nowhere_else() -> None:
    plan = first_plan(REQUEST, 16)
    refined = plan.refined(measured(plan.points() + plan.probes(), bend=400), 0.04)
    assert refined.c_ins == plan.c_ins
    assert set(refined.c_outs) - set(plan.c_outs) == {
        min(o for _, o in plan.probes() if o > 300 and o not in plan.c_outs)
    }


def test_a_bend_that_the_network_does_not_feel_gets_no_line() -> None:
    plan = first_plan(REQUEST, 16)
    values = measured(plan.points() + plan.probes(), bend=400)
    missed_us = 0.05 * 112
    assert plan.refined(values, 0.04, negligible_us=missed_us) == plan
    assert plan.refined(values, 0.04, negligible_us=0.1) == plan.refined(values, 0.04)


@given(
    c_ins=st.sets(st.integers(1, 200), min_size=1, max_size=20),
    c_outs=st.sets(st.integers(1, 200), min_size=1, max_size=20),
    step=st.sampled_from([1, 8, 16]),
)
def test_the_first_plan_covers_everything_asked_for(c_ins: set[int], c_outs: set[int], step: int) -> None:
    request = GridRequest(signature=CONV, c_ins=tuple(c_ins), c_outs=tuple(c_outs))
    surface = Surface(measured(first_plan(request, step).points()))
    assert not np.isnan(surface.grid(np.array(request.c_ins), np.array(request.c_outs))).any()


@given(counts=st.sets(st.integers(1, 200), min_size=1, max_size=20))
def test_a_paired_request_stays_on_its_diagonal(counts: set[int]) -> None:
    request = GridRequest(signature=CONV, c_ins=tuple(counts), c_outs=tuple(counts), paired=True)
    plan = first_plan(request, 8)
    points = plan.points() + plan.probes()
    assert all(i == o for i, o in points)
    refined = plan.refined({(i, i): float(i**3) for i, _ in points}, 0.04)
    assert set(plan.points()) <= set(refined.points()) <= set(request.pairs())


MASKED = replace(CONV, pattern="32x1@1/2")


def test_a_masked_layer_has_a_plan_for_each_piece_with_few_lines_of_its_own() -> None:
    request = GridRequest(signature=MASKED, c_ins=COUNTS, c_outs=COUNTS)
    plans = first_plans(request, 16)
    assert sorted(pair for plan in plans for pair in plan.request.pairs()) == request.pairs()
    assert len(plans) == 5  # one block-row; groups that read whole stairs or not, times groups that give them or not
    for plan in plans:
        assert len(plan.points()) == 4 and len(plan.probes()) <= 2
        assert replace(plan, c_ins=plan.request.c_ins[:3], c_outs=plan.request.c_outs[:3]).probes() == []


@given(
    c_ins=st.sets(st.integers(1, 200), min_size=1, max_size=20),
    c_outs=st.sets(st.integers(1, 200), min_size=1, max_size=20),
    step=st.sampled_from([1, 8, 16]),
    pattern=st.sampled_from(["32x1@1/2", "64x1@1/4", "64x64@1/2", "2:4v+16x16@1/2", "2:4"]),
)
def test_the_first_plans_cover_every_piece(c_ins: set[int], c_outs: set[int], step: int, pattern: str) -> None:
    signature = replace(CONV, pattern=pattern)
    request = GridRequest(signature=signature, c_ins=tuple(c_ins), c_outs=tuple(c_outs))
    values = measured([point for plan in first_plans(request, step) for point in plan.points()])
    cut = cut_of(signature, step)
    surface = Pieces(values, cut) if cut else Surface(values)
    assert not np.isnan(surface.grid(np.array(request.c_ins), np.array(request.c_outs))).any()


@pytest.mark.parametrize("turned", [False, True])
def test_a_column_known_at_its_ends_alone_follows_the_columns_beside_it(turned: bool) -> None:
    """Dear from 18 inputs on; the sixth output costs as much as the eighth. A line from (1, 6) to (96, 6) would give 52 at (18, 6)."""
    by_inputs, by_outputs = {1: 1.0, 18: 20.0, 30: 22.0, 96: 26.0}, {1: 8.0, 6: 9.5, 12: 10.0, 24: 12.0}
    points = {(i, o) for i in by_inputs for o in by_outputs} - {(18, 6), (30, 6)}
    values = {(i, o): by_inputs[i] * by_outputs[o] for i, o in points}
    surface = Surface({(o, i): us for (i, o), us in values.items()} if turned else values)
    ins, outs = np.array(list(by_inputs)), np.array(list(by_outputs))
    found = surface.grid(outs, ins).T if turned else surface.grid(ins, outs)
    assert found == pytest.approx(np.outer(list(by_inputs.values()), list(by_outputs.values())))
    between = surface.grid(np.array([6]), np.array([24])) if turned else surface.grid(np.array([24]), np.array([6]))
    assert between.item() == pytest.approx(21.0 * 9.5), "and so between the rows it crosses"
    assert surface.axes == ((frozenset(outs), frozenset(ins)) if turned else (frozenset(ins), frozenset(outs)))
