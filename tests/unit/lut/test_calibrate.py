"""The calibration finds the line between predictions and measurements and is not led astray."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lut.calibrate import fit, operator_us


def test_one_network_gives_a_scale_alone() -> None:
    calibration = fit([100.0], [10], [120.0])
    assert (calibration.scale, calibration.offset_us, calibration.residual) == pytest.approx((1.2, 0.0, 0.0), abs=1e-9)


@given(scale=st.floats(0.5, 2.0), offset=st.floats(0.1, 10.0))
def test_an_exact_line_is_found_all_but_what_holds_the_offset(scale: float, offset: float) -> None:
    predicted, num = np.array([1000.0, 2000.0, 3500.0, 5000.0]), np.array([10, 5, 8, 10])
    calibration = fit(predicted, num, scale * predicted + offset * num)
    assert calibration.scale == pytest.approx(scale, rel=0.005)
    assert calibration.offset_us == pytest.approx(offset, rel=0.05)
    assert calibration.residual == pytest.approx(0.0, abs=0.002)


def test_one_disturbed_measurement_hardly_moves_the_line() -> None:
    predicted = np.array([1000.0, 2000.0, 3000.0, 4000.0, 5000.0])
    measured = 1.1 * predicted + 50.0
    measured[2] *= 2.0
    calibration = fit(predicted, [10] * 5, measured)
    assert calibration.scale == pytest.approx(1.1, rel=0.01)
    assert calibration.apply(1000.0, 10) == pytest.approx(1150.0, rel=0.01)


def test_networks_of_one_size_give_a_scale_alone() -> None:
    calibration = fit([100.0, 102.0, 101.0], [10] * 3, [120.0, 121.0, 122.0])
    assert calibration.scale == pytest.approx(1.2, rel=0.02)
    assert calibration.apply(50.0, 10) == pytest.approx(60.0, rel=0.02), "as good as no offset"


@pytest.mark.parametrize("measured", [[200.0, 100.0], [10.0, 400.0], [150.0, 160.0], [90.0, 210.0]])
def test_a_line_that_no_network_could_have_is_not_used(measured: list[float]) -> None:
    calibration = fit([100.0, 200.0], [10, 10], measured)
    assert calibration.scale > 0
    assert 10 * abs(calibration.offset_us) <= min(measured) / 2


def test_networks_of_fewer_operators_tell_what_calling_one_costs() -> None:
    # Sums and counts as of PyTorch's MobileNetV2s, then of a plan without five of its branches; an operator costs 20 us to call.
    sums, num = [12124.0, 8982.0, 8693.0, 5917.0, 3900.0], [54, 54, 51, 45, 33]
    measured = [1.05 * us + 20 * n for us, n in zip(sums, num, strict=True)]
    calibration = fit(sums, num, measured)
    assert calibration.apply(3034.0, 39) == pytest.approx(1.05 * 3034 + 20 * 39, rel=0.01)


@pytest.mark.parametrize(
    ("predicted", "num", "measured"),
    [
        ([], [], []),
        ([1.0], [1], [1.0, 2.0]),
        ([1.0, 2.0], [1], [1.0, 2.0]),
        ([0.0], [1], [1.0]),
        ([1.0], [0], [1.0]),
        ([1.0], [1], [float("nan")]),
    ],
)
def test_what_cannot_be_fitted_is_refused(predicted: list[float], num: list[int], measured: list[float]) -> None:
    with pytest.raises(ValueError, match="predict"):
        fit(predicted, num, measured)


LARGE_PAY_MORE = [(33.0, 0.892), (17.9, 0.925), (10.5, 0.979), (8.9, 1.025), (5.4, 1.170), (11.4, 0.982)]
"""A ResNet-50 with two threads, dense and slimmed: milliseconds, and the sum of its operators over that."""


def test_an_offset_below_nothing_counts_where_all_networks_tell_it() -> None:
    measured = np.array([ms for ms, _ in LARGE_PAY_MORE])
    sums = measured * [share for _, share in LARGE_PAY_MORE]
    calibration = fit(sums, [56] * len(sums), measured)
    assert 56 * calibration.offset_us == pytest.approx(-2.2, abs=0.3) and calibration.residual < 0.03
    assert calibration.apply(5.06 * 1.123, 56) == pytest.approx(5.06, rel=0.1), "a scale alone: 15 % too slow"


def test_an_offset_that_scatter_gives_is_small() -> None:
    sums = np.array([20.0, 11.0, 17.0, 12.0, 4.0, 15.0, 9.0])
    scatter = np.array([1.02, 0.98, 1.01, 1.03, 0.95, 0.99, 1.01])
    calibration = fit(sums, [56] * len(sums), sums * scatter)
    assert 56 * abs(calibration.offset_us) < 0.1 * min(sums)
    assert calibration.scale == pytest.approx(1.0, abs=0.03)


def test_an_offset_below_nothing_leaves_half_of_what_an_operator_takes() -> None:
    told = [operator_us(np.array([10.0]), offset)[0] for offset in (3.0, -3.0, -5.0, -5.1, -1000.0)]
    assert told == [13.0, 7.0, 5.0, 5.0, 5.0]
