"""The calibration finds the line between predictions and measurements and is not led astray."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lut.calibrate import fit, network_us


def test_one_network_gives_a_scale_alone() -> None:
    calibration = fit([100.0], [120.0])
    assert (calibration.scale, calibration.offset_us, calibration.residual) == pytest.approx((1.2, 0.0, 0.0), abs=1e-9)


@given(scale=st.floats(0.5, 2.0), offset=st.floats(1.0, 100.0))
def test_an_exact_line_is_found_all_but_what_holds_the_offset(scale: float, offset: float) -> None:
    predicted = np.array([1000.0, 2000.0, 3500.0, 5000.0])
    calibration = fit(predicted, scale * predicted + offset)
    assert calibration.scale == pytest.approx(scale, rel=0.005)
    assert calibration.offset_us == pytest.approx(offset, rel=0.05)
    assert calibration.residual == pytest.approx(0.0, abs=0.002)


def test_one_disturbed_measurement_hardly_moves_the_line() -> None:
    predicted = np.array([1000.0, 2000.0, 3000.0, 4000.0, 5000.0])
    measured = 1.1 * predicted + 50.0
    measured[2] *= 2.0
    calibration = fit(predicted, measured)
    assert calibration.scale == pytest.approx(1.1, rel=0.01)
    assert calibration.apply(1000.0) == pytest.approx(1150.0, rel=0.01)


def test_networks_of_one_size_give_a_scale_alone() -> None:
    calibration = fit([100.0, 102.0, 101.0], [120.0, 121.0, 122.0])
    assert calibration.scale == pytest.approx(1.2, rel=0.02)
    assert calibration.apply(50.0) == pytest.approx(60.0, rel=0.02), "as good as no offset"


@pytest.mark.parametrize("measured", [[200.0, 100.0], [10.0, 400.0], [150.0, 160.0], [90.0, 210.0]])
def test_a_line_that_no_network_could_have_is_not_used(measured: list[float]) -> None:
    calibration = fit([100.0, 200.0], measured)
    assert calibration.scale > 0
    assert abs(calibration.offset_us) <= min(measured) / 2


@pytest.mark.parametrize(
    ("predicted", "measured"), [([], []), ([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([1.0], [float("nan")])]
)
def test_what_cannot_be_fitted_is_refused(predicted: list[float], measured: list[float]) -> None:
    with pytest.raises(ValueError, match="predict"):
        fit(predicted, measured)


LARGE_PAY_MORE = [(33.0, 0.892), (17.9, 0.925), (10.5, 0.979), (8.9, 1.025), (5.4, 1.170), (11.4, 0.982)]
"""A ResNet-50 with two threads, dense and slimmed: milliseconds, and the sum of its operators over that."""


def test_an_offset_below_nothing_counts_where_all_networks_tell_it() -> None:
    measured = np.array([ms for ms, _ in LARGE_PAY_MORE])
    sums = measured * [share for _, share in LARGE_PAY_MORE]
    calibration = fit(sums, measured)
    assert calibration.offset_us == pytest.approx(-2.2, abs=0.3) and calibration.residual < 0.03
    assert calibration.apply(5.06 * 1.123) == pytest.approx(5.06, rel=0.1), "a scale alone: 15 % too slow"


def test_an_offset_that_scatter_gives_is_small() -> None:
    sums = np.array([20.0, 11.0, 17.0, 12.0, 4.0, 15.0, 9.0])
    scatter = np.array([1.02, 0.98, 1.01, 1.03, 0.95, 0.99, 1.01])
    calibration = fit(sums, sums * scatter)
    assert abs(calibration.offset_us) < 0.1 * min(sums)
    assert calibration.scale == pytest.approx(1.0, abs=0.03)


def test_an_offset_below_nothing_leaves_half_of_what_operators_take() -> None:
    assert [network_us(10.0, offset) for offset in (3.0, -3.0, -5.0, -5.1, -1000.0)] == [13.0, 7.0, 5.0, 5.0, 5.0]
