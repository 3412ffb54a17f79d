"""Whole networks timed in turns with a dense one, load after load; what counts is what they take while the machine is calm.

A machine shares its memory with neighbours it does not see. While those are busy, networks take longer by what moves their largest
maps, small networks as much as large ones, so that no factor takes it out: one that takes 7 ms took 14, and one of 30 took 38.
Nothing that a process sees of itself tells of it but the networks, which all are slow in the same rounds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from lut.measure.runtime import Program
from lut.measure.timing import Timing

IN_TURNS = 4
"""Networks timed in turns with the dense one: more would hold too much memory at once."""
LOADS = 2
"""Times each is loaded and timed: the same network, loaded again, lies elsewhere in memory and is up to 4 % faster or slower."""
MOST_LOADS = 3
"""There are up to this many times as many where"""
UNSURE = 0.015
"""the mean over calm loads has a standard error above this, or"""
LEAST_CALM = 2
"""a network has fewer loads with calm rounds in them."""
CALM = 1.1
"""A round is calm when its networks took at most this times as long as in"""
FASTEST = 0.1
"""this share of their rounds, the fastest."""


@dataclass(frozen=True, kw_only=True)
class Turns:
    """What networks took in calm rounds, put on the scale of the dense network, so that drift cancels."""

    dense_us: float
    measured_us: tuple[float, ...]
    spread: tuple[float, ...]
    """By how much the slowest load of each took longer than its fastest, relative: so little does one load say of the next."""
    calm: float
    """Share of the rounds that were calm."""


@dataclass(frozen=True, kw_only=True)
class _Turn:
    """Some networks, the dense one (0) first, timed in turns."""

    numbers: tuple[int, ...]
    rounds_ms: np.ndarray
    """[networks, rounds]"""


@dataclass(frozen=True, kw_only=True)
class _Level:
    """What the calm rounds of a turn say."""

    numbers: tuple[int, ...]
    dense_ms: float
    levels: np.ndarray
    """[networks], by how much each takes longer than all do on average, logarithms: the median over rounds."""


def in_turns(
    measure: Callable[[Sequence[Program]], Sequence[Timing]],
    dense: Program,
    networks: Sequence[Program],
    num_loads: int = LOADS,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    usual_us: float = math.inf,
) -> Turns:
    """Return the latencies of networks, each timed in turns with the dense one and a few others by `measure`: medians over the calm
    rounds of a load, the mean over `num_loads` loads, up to three times as many where these differ, hardly one was calm, or the
    dense network takes longer than `usual_us`, which it took another time, by more than a tenth.

    All have been loaded once before any is loaded again, and then with others: what disturbs the machine for some seconds, or the
    memory that the dense network happens to get, disturbs one load of each, and not the same ones each time. `progress(done, total)`
    counts turns; `total` grows where there are more.
    """
    programs, random = [dense, *networks], np.random.default_rng(0)
    turns: list[_Turn] = []
    spreads: dict[int, list[float]] = {number: [] for number in range(1, len(programs))}
    for load in range(MOST_LOADS * num_loads):
        if load >= num_loads and _sure(_calm(turns), len(programs), num_loads, usual_us):
            break
        order = random.permutation(len(networks)) + 1
        for start in range(0, len(order), IN_TURNS):
            part = (0, *order[start : start + IN_TURNS].tolist())
            base, *others = timings = measure([programs[number] for number in part])
            turns.append(_Turn(numbers=part, rounds_ms=_rounds(timings)))
            progress(len(turns), max(load + 1, num_loads) * math.ceil(len(order) / IN_TURNS))
            for number, timing in zip(part[1:], others, strict=True):
                spreads[number].append(timing.over(base))
    calm = _calm(turns)
    dense_us = _dense_us(calm)
    return Turns(
        dense_us=dense_us,
        measured_us=tuple(dense_us * share for share in _relative(len(programs), calm)[1:]),
        spread=tuple(max(some) / min(some) - 1 for some in spreads.values()),
        calm=fmean(float(paces <= CALM) for some in _paces(turns) for paces in some),
    )


def _rounds(timings: Sequence[Timing]) -> np.ndarray:
    rounds = [timing.rounds_ms or (timing.p50_ms,) for timing in timings]
    return np.array([some[: min(map(len, rounds))] for some in rounds])


def _paces(turns: Sequence[_Turn]) -> list[np.ndarray]:
    """Return how slow every round of each of `turns` was, [rounds], 1 for a calm one: the median over its networks, of two the
    slower, which may have been calm another time where the other never was.
    """
    seen: dict[int, list[float]] = {}
    for turn in turns:
        for number, rounds_ms in zip(turn.numbers, turn.rounds_ms, strict=True):
            seen.setdefault(number, []).extend(rounds_ms)
    least = {number: np.quantile(some, FASTEST) for number, some in seen.items()}
    return [
        np.quantile(turn.rounds_ms / [[least[n]] for n in turn.numbers], 0.5, axis=0, method="higher") for turn in turns
    ]


def _calm(turns: Sequence[_Turn]) -> list[_Level]:
    """Return what the calm rounds of `turns` say; of a network that had none, the calmest it had."""
    paces = _paces(turns)
    limits: dict[int, float] = {}
    for turn, some in zip(turns, paces, strict=True):
        for number in turn.numbers:
            limits[number] = min(limits.get(number, math.inf), max(CALM, some.min()))
    levels = []
    for turn, some in zip(turns, paces, strict=True):
        kept = some <= max(limits[number] for number in turn.numbers)
        if kept.any():
            logs = np.log(turn.rounds_ms[:, kept])
            own = np.median(logs - logs.mean(axis=0), axis=1)
            dense_ms = float(np.median(turn.rounds_ms[0, kept]))
            levels.append(_Level(numbers=turn.numbers, dense_ms=dense_ms, levels=own))
    return levels


def _dense_us(calm: Sequence[_Level]) -> float:
    return 1e3 * fmean(level.dense_ms for level in calm)


def _sure(calm: Sequence[_Level], num: int, num_loads: int, usual_us: float) -> bool:
    """Return whether each of `num` networks had calm loads, the dense one as calm as usual, and their mean is known well: the
    median over networks.
    """
    ratios: dict[int, list[float]] = {number: [] for number in range(1, num)}
    for level in calm:
        for number, log in zip(level.numbers[1:], level.levels[1:], strict=True):
            ratios[number].append(log - level.levels[0])
    if _dense_us(calm) > CALM * usual_us or any(len(some) < min(LEAST_CALM, num_loads) for some in ratios.values()):
        return False
    errors = [np.std(some, ddof=1) / len(some) ** 0.5 for some in ratios.values() if len(some) > 1]
    return not errors or float(np.median(errors)) <= UNSURE


def _relative(num: int, calm: Sequence[_Level]) -> list[float]:
    """Return what each of `num` networks takes over the first one, by logarithms of those that had turns together: a network has its
    level, and each turn a pace of its own, by least squares.
    """
    rows = [
        (number, num + turn, log)
        for turn, some in enumerate(calm)
        for number, log in zip(some.numbers, some.levels, strict=True)
    ]
    design = np.zeros((len(rows), num + len(calm)))
    for row, (network, pace, _) in enumerate(rows):
        design[row, [network, pace]] = 1.0
    levels = np.linalg.lstsq(design, np.array([log for *_, log in rows]))[0][:num]
    return [float(share) for share in np.exp(levels - levels[0])]
