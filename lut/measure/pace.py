"""The machine's pace: a few operators of the network, timed in every chunk of a measurement, tell how fast it is just then.

A machine that others share is 5-10 % slower for some seconds, and then is not; all operators are, within about a per cent.
Points of one chunk are timed in turns, so they are slower alike; between chunks the anchors tell, by the median of what they
take over what they took in calm chunks, and the chunk is put on the scale of those. (One kernel does not: what it takes itself
scatters as much as the pace does.) Where neighbours are at the memory it is slower by half and more, and operators are not alike:
rounds in which the anchors tell of that do not count.
"""

import math
from collections.abc import Sequence

import numpy as np

from lut.measure.turns import CALM, FASTEST
from lut.request import GridRequest, num_macs
from lut.signature import OpSignature

NUM_ANCHORS = 16
LEAST_ROUNDS = 3
_PASSES = 5

Anchor = tuple[OpSignature, tuple[int, int]]


def anchors(requests: Sequence[GridRequest]) -> list[Anchor]:
    """Return the points to time throughout: operators without a pattern, from the dearest on evenly, at the middle of their widths."""
    dense = [request for request in requests if not request.signature.pattern] or list(requests)
    points = {request.signature: (_middle(request.c_ins), _middle(request.c_outs)) for request in dense}
    dearest = sorted(points.items(), key=lambda anchor: num_macs(anchor[0], *anchor[1]), reverse=True)
    num = min(NUM_ANCHORS, len(dearest))
    return [dearest[number * len(dearest) // num] for number in range(num)]


def levels(anchors_us: np.ndarray, known_us: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how slow chunks were, 1 for the calm ones in the middle, and what anchors take then; or both on the scale of what is known.

    float64 [chunks] and [anchors]; `anchors_us` [chunks, anchors], `known_us` [anchors], NaN where an earlier measurement left none.
    """
    logs, known = np.log(anchors_us), np.log(known_us)
    usual = np.median(logs, axis=0)
    for _ in range(_PASSES):
        slow = np.median(logs - usual, axis=1)
        quiet = slow <= slow.min() + math.log(CALM)
        usual = np.median((logs - slow[:, None])[quiet], axis=0) + np.median(slow[quiet])
    there = np.isfinite(known)
    if there.any():
        usual += np.median((known - usual)[there])
        usual[there] = known[there]
    slow = np.median((logs - usual)[:, there if there.any() else slice(None)], axis=1)
    return np.exp(slow), np.exp(usual)


def by_round(medians_s: Sequence[Sequence[float]]) -> np.ndarray:
    """Return the pace of every round, float64 [rounds], 1 for the fastest ones; `medians_s` [anchors, rounds]."""
    values = np.array(medians_s)
    return np.asarray(np.median(values / np.quantile(values, FASTEST, axis=1, keepdims=True), axis=0))


def calm(paces: np.ndarray) -> np.ndarray:
    """Return which rounds were hardly slower than the fastest ones, bool [rounds]."""
    return np.asarray(paces <= CALM * np.quantile(paces, FASTEST))


def counting(paces: np.ndarray) -> np.ndarray:
    """Return which rounds count, bool [rounds]: the calm ones, and the `LEAST_ROUNDS` calmest at least."""
    few = np.sort(paces)[min(LEAST_ROUNDS, len(paces)) - 1]
    return np.asarray(calm(paces) | (paces <= few))


def moved(rounds: Sequence[float]) -> float:
    """Return how far the pace moved within a chunk: its last rounds against its first; one round is an accident."""
    half = max(1, len(rounds) // 2)
    return abs(float(np.median(rounds[-half:])) / float(np.median(rounds[:half])) - 1)


def _middle(counts: Sequence[int]) -> int:
    return sorted(counts)[len(counts) // 2]
