"""The stair is found where there is one, through noise, and not where there is none."""

import numpy as np
import pytest

from lut.measure.stair import WIDTHS, stair_step

WIDTH = np.array(WIDTHS)


def staircase(step: int) -> np.ndarray:
    return 5.0 + 3.0 * (-(-WIDTH // step))


@pytest.mark.parametrize("step", [2, 4, 8, 16, 32])
def test_a_staircase_gives_its_step(step: int) -> None:
    assert stair_step(WIDTH, staircase(step)) == step


@pytest.mark.parametrize("step", [8, 16])
@pytest.mark.parametrize("seed", range(5))
def test_noise_and_outliers_do_not_hide_the_step(step: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    cost = staircase(step) * random.normal(1.0, 0.01, len(WIDTH))
    cost[random.integers(len(WIDTH), size=3)] *= 2.0
    assert stair_step(WIDTH, cost) == step


def test_widths_that_the_fast_kernel_refuses_do_not_hide_the_step() -> None:
    cost = staircase(16) + np.where(WIDTH % 4, 20.0, 0.0)
    assert stair_step(WIDTH, cost) == 16


def test_a_smooth_cost_has_no_stairs() -> None:
    assert stair_step(WIDTH, 1.0 + 0.1 * WIDTH) == 1
    assert stair_step(WIDTH, np.ones(len(WIDTH))) == 1
