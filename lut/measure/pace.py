"""The machine's pace: a few operators of the network, timed in every chunk of a measurement, tell how fast it is just then.

A machine that others share is 5-10 % slower for some seconds, and then is not; all operators are, within about a per cent.
Points of one chunk are timed in turns, so they are slower alike; between chunks the anchors tell, by the median of what they
take over what they took first, and the chunk is put on the first one's scale. (One kernel does not: what it takes itself
scatters as much as the pace does.) Where neighbours are at the memory it is slower by half and more, and operators are not alike:
rounds in which the anchors tell of that do not count.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from lut.entry import Entry
from lut.measure.timing import relative_scatter
from lut.measure.turns import CALM, FASTEST
from lut.request import GridRequest, num_macs
from lut.signature import OpSignature

NUM_ANCHORS = 8
LEAST_ROUNDS = 3

Anchor = tuple[OpSignature, tuple[int, int]]


def anchors(requests: Sequence[GridRequest]) -> list[Anchor]:
    """Return the points to time throughout: the dearest operators without a pattern, at the middle of their widths."""
    dense = [request for request in requests if not request.signature.pattern] or list(requests)
    points = {request.signature: (_middle(request.c_ins), _middle(request.c_outs)) for request in dense}
    return sorted(points.items(), key=lambda anchor: num_macs(anchor[0], *anchor[1]), reverse=True)[:NUM_ANCHORS]


class Pace:
    """What the anchors took at first, and what they say of every chunk since."""

    def __init__(self, usual: Mapping[Anchor, Entry]) -> None:
        """`usual` are entries of anchors that an earlier measurement left: its scale is kept."""
        self.usual = dict(usual)
        """Entries of the anchors on the common scale."""
        self.least = math.inf
        """How slow the fastest chunk was."""
        self.drift = 0.0
        """Largest move within the rounds of a chunk that count, which nothing takes out."""
        self._rounds: list[float] = []

    @property
    def noise(self) -> float:
        """Relative scatter of the pace within chunks."""
        return relative_scatter(self._rounds)

    def of(self, now: Mapping[Anchor, Entry]) -> float:
        """Return how slow a chunk is, 1 for the first; relative."""
        known = [now[anchor].p50_us / self.usual[anchor].p50_us for anchor in now if anchor in self.usual]
        return float(np.median(known)) if known else 1.0

    def keep(self, now: Mapping[Anchor, Entry], rounds: Sequence[float]) -> None:
        """Take note of a chunk: its anchors, and its pace in the rounds that count."""
        slow = self.of(now)
        self.usual = {anchor: entry.faster(slow) for anchor, entry in now.items()} | self.usual
        self.least = min(self.least, slow)
        self.drift = max(self.drift, moved(rounds))
        self._rounds += list(rounds)


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
