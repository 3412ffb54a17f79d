"""What was timed in turns, chunk after chunk, as entries on one scale: that of the chunks during which the machine was calm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lut.entry import Entry
from lut.measure.pace import Anchor, levels, moved
from lut.measure.timing import relative_scatter
from lut.measure.turns import CALM
from lut.signature import OpSignature

Measured = dict[OpSignature, dict[tuple[int, int], Entry]]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What an operator took by itself."""

    entry: Entry
    cold_bytes: float
    """Weights of it that a network finds further away (`lut.measure.cold`)."""

    def in_network(self, cold_us_per_byte: float) -> Entry:
        """Return what it takes in a network, where such a byte costs so much more."""
        return self.entry.longer(self.cold_bytes * cold_us_per_byte)


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """What points, and the anchors beside them, took in the rounds that count."""

    points: Mapping[Anchor, Seen]
    anchors: Sequence[Seen]
    rounds: Sequence[float]
    """Pace of these rounds, 1 for the fastest."""
    cold_us_per_byte: float
    """What a byte of weights cost more from far just before."""
    again: int = 0
    """Times it was timed once more."""


class Chunks:
    """All chunks of a measurement."""

    def __init__(self, anchors: Sequence[Anchor], known_us: Sequence[float]) -> None:
        """`known_us` [anchors] is what they took in an earlier measurement, whose scale is kept; NaN where there was none."""
        self._anchors = anchors
        self._known_us = np.array(known_us)
        self._chunks: list[Chunk] = []

    @property
    def noise(self) -> float:
        """Relative scatter of the pace within chunks."""
        return relative_scatter([pace for chunk in self._chunks for pace in chunk.rounds])

    @property
    def drift(self) -> float:
        """Largest move within the rounds of a chunk that count, which nothing takes out."""
        return max((moved(chunk.rounds) for chunk in self._chunks), default=0.0)

    def add(self, chunk: Chunk) -> None:
        """Take in a chunk that was timed for the first time."""
        self._chunks.append(chunk)

    def slowest(self) -> int | None:
        """Return the number of the restless chunk that was timed least often, the slowest of these; None where all were calm."""
        slow, _ = self._levels(self._chunks)
        moods = _moods(self._chunks, slow)
        wanting: list[int] = np.flatnonzero(moods > CALM * slow.min()).tolist()
        return min(wanting, key=lambda number: (self._chunks[number].again, -moods[number]), default=None)

    def points(self, number: int) -> list[Anchor]:
        """Return the points of a chunk."""
        return list(self._chunks[number].points)

    def again(self, number: int, chunk: Chunk) -> None:
        """Take in what was timed once more; the calmer time counts."""
        old = self._chunks[number]
        both = [*self._chunks, chunk]
        moods = _moods(both, self._levels(both)[0])
        self._chunks[number] = replace(chunk if moods[-1] < moods[number] else old, again=old.again + 1)

    def found(self) -> Measured:
        """Return the entries of all that was measured, anchors that were not known too."""
        found: Measured = {}
        if not self._chunks:
            return found
        slow, usual_us = self._levels(self._chunks)
        cold = _cold_us_per_byte(self._chunks)
        for chunk, factor in zip(self._chunks, slow.tolist(), strict=True):
            for (signature, point), seen in chunk.points.items():
                found.setdefault(signature, {})[point] = seen.in_network(cold).faster(factor)
        calmest = self._chunks[int(slow.argmin())]
        fixed = zip(self._anchors, calmest.anchors, usual_us.tolist(), np.isnan(self._known_us), strict=True)
        for (signature, point), seen, us, fresh in fixed:
            if fresh:
                entry = seen.in_network(cold)
                found.setdefault(signature, {})[point] = entry.faster(entry.p50_us / us)
        return found

    def _levels(self, chunks: Sequence[Chunk]) -> tuple[np.ndarray, np.ndarray]:
        cold = _cold_us_per_byte(chunks)
        anchors_us = [[seen.in_network(cold).p50_us for seen in chunk.anchors] for chunk in chunks]
        return levels(np.array(anchors_us), self._known_us)


def _moods(chunks: Sequence[Chunk], slow: np.ndarray) -> np.ndarray:
    """Return how slow chunks were, and the more if rounds count that were not calm because too few were; float64 [chunks]."""
    return slow * np.maximum(1.0, [max(chunk.rounds) / CALM for chunk in chunks])


def _cold_us_per_byte(chunks: Sequence[Chunk]) -> float:
    return float(np.median([chunk.cold_us_per_byte for chunk in chunks]))
