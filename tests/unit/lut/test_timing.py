"""Interleaving gives everybody a turn in every round; disturbed runs are kept but do not count."""

from dataclasses import replace

import numpy as np
import pytest

from lut.measure.timing import WARMED_S, Timed, Timing, interleave, relative_scatter


def test_every_round_gives_everybody_a_turn_in_turning_order() -> None:
    calls: list[str] = []
    timed = [Timed(lambda name=name: calls.append(name)) for name in "abc"]
    rounds: list[int] = []
    interleave(timed, rounds=3, slice_s=0.0, min_runs=2, on_round=rounds.append)
    assert rounds == [1, 2, 3]
    assert all(len(one.round_medians) == 3 and len(one.seconds) >= 6 for one in timed)
    turns = [name for i, name in enumerate(calls) if i == 0 or calls[i - 1] != name]
    assert "".join(turns) == "abc" + "abcbcacab", "everybody warms up, then the rounds"


def timed_with(seconds: list[float], disturbed: list[bool], on_cpu_s: list[float], threads: int = 1) -> Timed:
    return Timed(lambda: None, threads, seconds=seconds, disturbed=disturbed, on_cpu_s=on_cpu_s)


def test_disturbed_runs_are_kept_but_do_not_enter_percentiles() -> None:
    seconds = [1.0] * 9 + [5.0] * 3
    timing = timed_with(seconds, [s > 1 for s in seconds], [1.0] * 12).timing()
    assert (timing.p50_ms, timing.p90_ms) == (1000.0, 1000.0)
    assert (timing.num_samples, timing.num_disturbed, timing.busy) == (12, 3, False)
    assert timing.samples_ms == tuple(1e3 * s for s in seconds)


def test_rounds_that_do_not_count_are_kept_and_left_out() -> None:
    waiting = iter([1.0] * 5 + [3.0] * 5 + [1.2] * 5)
    one = Timed(lambda: next(waiting))
    for _ in range(3):
        one.sample(5, num_warmup=0)
    assert one.round_medians == [1.0, 3.0, 1.2] and one.starts == [0, 5, 10]
    assert one.clean_s(np.array([True, False, True])).tolist() == [1.0] * 5 + [1.2] * 5
    assert len(one.clean_s()) == len(one.seconds) == 15


def test_when_every_run_is_disturbed_processor_time_stands_in_for_one_thread() -> None:
    one = timed_with([4.0] * 6, [True] * 6, [2.0] * 6)
    two = timed_with([4.0] * 6, [True] * 6, [2.0] * 6, threads=2)
    assert (one.timing().p50_ms, two.timing().p50_ms) == (2000.0, 4000.0)
    assert one.timing().busy


def test_sampling_stops_even_if_every_run_is_disturbed() -> None:
    import time

    asleep = Timed(lambda: time.sleep(0.005))
    asleep.sample(num_runs=2, num_warmup=0)
    assert all(asleep.disturbed)
    assert len(asleep.seconds) == 6


def test_warming_up_goes_on_while_runs_get_faster_and_not_for_ever() -> None:
    takes_s = [4.0, 2.0, 2.1, 1.5, 1.6, 1.49, 1.7, 9.0, 0.1]
    short, long = iter([s / 1e3 for s in takes_s]), iter(takes_s)
    assert Timed(lambda: next(short)).settled_s() == 1.49e-3
    assert list(short) == [1.7e-3, 9e-3, 0.1e-3]
    assert Timed(lambda: next(long)).settled_s() == 2.0
    assert next(long) == 1.5, "what runs long finds nothing of its own in the caches"
    falling = (0.9**n for n in range(1000))
    Timed(lambda: next(falling)).settled_s()
    assert next(falling) > 0.9**50


def test_long_runs_are_not_repeated_to_know_about_how_long_they_take() -> None:
    takes_s = iter([50e-3, 1e-3, 3e-3, 2.0, 1.0, 0.5])
    assert Timed(lambda: next(takes_s)).quick_s() == 1e-3, "a short one may be slow to begin with"
    assert Timed(lambda: next(takes_s)).quick_s() == 1.0
    assert next(takes_s) == 0.5


def test_scatter_ignores_outliers() -> None:
    assert relative_scatter([1.0]) == 0.0
    assert relative_scatter([1.0] * 9 + [50.0]) == 0.0
    normal = np.random.default_rng(0).normal(100.0, 3.0, 5000)
    assert relative_scatter(list(normal)) == pytest.approx(0.03, rel=0.1)


@pytest.mark.parametrize(("takes_s", "num_warmup"), [(0.9 * WARMED_S, 1), (1.1 * WARMED_S, 0)])
def test_what_is_short_is_warmed_before_each_slice(takes_s: float, num_warmup: int) -> None:
    runs = []

    def run() -> float:
        runs.append(takes_s)
        return takes_s

    one = Timed(run)
    interleave([one], rounds=0, slice_s=0.0, min_runs=1)
    num_settled = len(runs)
    interleave([one], rounds=4, slice_s=0.0, min_runs=1)
    assert len(runs) == 2 * num_settled + 4 * (1 + num_warmup) and len(one.seconds) == 4


def test_networks_in_turns_are_compared_round_by_round() -> None:
    """Half of the rounds were slow, for both alike; the percentiles fell on different sides of that."""
    base = Timing(
        p50_ms=10.0, p90_ms=15.0, num_samples=5, samples_ms=(), num_disturbed=0, busy=False, noise=0.0,
        rounds_ms=(10.0, 10.0, 10.0, 15.0, 15.0),
    )  # fmt: skip
    other = replace(base, p50_ms=7.5, rounds_ms=(5.0, 5.0, 5.0, 7.5, 7.5))
    assert other.over(base) == pytest.approx(0.5)
    assert replace(other, rounds_ms=()).over(base) == pytest.approx(0.75), "nothing to pair: by the percentiles"
