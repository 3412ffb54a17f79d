"""Totals of several input groups: which of them a graph must tell apart.

A layer behind a concatenation is priced by the total of its inputs, and totals are many. Those whose tables are alike are one
choice: on a staircase most are. Where that is not enough, totals whose tables differ a little are one choice too, and get the
largest value and the least costs among them: a bound. Before that, what the tables gain per channel at a centre is taken out of
them and put on the groups that bring the channels, so that near the centre little is left to differ.

Letters: C = totals a concatenation reaches, K = budgets, P = patterns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

Terms = tuple[tuple[int, int], ...]
"""(index of a coupling group, channels one of its units brings), ascending."""

BLURS = (np.inf, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 0.0)
"""By level: how much the tables of totals may differ, as a share of the budgets, and still be one choice."""
EXACT = len(BLURS) - 1
"""The level of the problem's own tables; level 0 tells no totals apart."""
CHUNK = 64
"""Totals compared at a time."""
NEAR = 8
"""The slope is taken over an eighth of the range on either side of the centre."""
SAMPLES = 4
"""Output choices compared per layer; all of them at the exact level."""


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Totals in runs that are one choice each."""

    start: np.ndarray
    """int64 [classes]: index of the first total of each class."""
    slopes: tuple[np.ndarray, ...]
    """int64 [1 + K] per layer: what is taken out of its table per channel."""
    loss: float = 0.0
    """How much totals of one class differ, as a share of the budgets, on average over the totals."""


@dataclass(frozen=True, kw_only=True)
class Concat:
    """One set of input groups, and the tables of the layers that read it."""

    counts: np.ndarray
    """int64 [C]: every reachable total without what is fixed, ascending."""
    tables: dict[str, np.ndarray]
    """int64 [1 + K, P, C, n_out] per layer name: scaled value, then costs."""
    scale: np.ndarray
    """float64 [1 + K]: what a difference counts in."""
    centre: int
    """A total; 0: the middle one."""
    outs: tuple[int, ...]
    """Output choice per layer at the centre."""
    _known: dict[tuple[int, bool], Classes] = field(default_factory=dict)

    def classes(self, level: int, *, all_or_one: bool = False) -> Classes:
        """Return the totals in as few classes as hold together at a level; with `all_or_one`, in one class or each its own."""
        key = level, all_or_one
        if key not in self._known:
            self._known[key] = self._classes(BLURS[level], all_or_one)
        return self._known[key]

    def merged(self, name: str, classes: Classes) -> tuple[np.ndarray, np.ndarray]:
        """Return a layer's table int64 [1 + K, P, classes, n_out] and the slope taken out of it, int64 [1 + K]."""
        slope = classes.slopes[list(self.tables).index(name)]
        rest = self._without(self.tables[name], slope)
        value = np.maximum.reduceat(rest[:1], classes.start, axis=2)
        return np.concatenate([value, np.minimum.reduceat(rest[1:], classes.start, axis=2)]), slope

    def _classes(self, blur: float, all_or_one: bool) -> Classes:
        tables = list(self.tables.values())
        flat = tuple(np.zeros(len(self.scale), dtype=np.int64) for _ in tables)
        if blur == 0:
            return (
                Classes(start=np.arange(len(self.counts)), slopes=flat) if all_or_one else self._runs(tables, 0.0, flat)
            )
        sampled = [table[..., self._sample(table, out)] for table, out in zip(tables, self.outs, strict=True)]
        tilts = tuple(self._slope(table, out) for table, out in zip(tables, self.outs, strict=True))
        tilted = self._runs([self._without(t, tilt) for t, tilt in zip(sampled, tilts, strict=True)], blur, tilts)
        if all_or_one:
            return tilted if len(tilted.start) == 1 else self._classes(0.0, True)
        return min((self._runs(sampled, blur, flat), tilted), key=lambda classes: (len(classes.start), classes.loss))

    def _without(self, table: np.ndarray, slope: np.ndarray) -> np.ndarray:
        return np.asarray(table - slope[:, None, None, None] * self.counts[:, None])

    def _sample(self, table: np.ndarray, out: int) -> np.ndarray:
        return np.unique([out, *np.linspace(0, table.shape[3] - 1, SAMPLES - 1).astype(np.int64)])

    def _slope(self, table: np.ndarray, out: int) -> np.ndarray:
        """Return what the first pattern's table gains per channel around the centre, in whole units."""
        counts = self.counts
        middle = self.centre or (int(counts[0]) + int(counts[-1])) // 2
        reach = max(1, (int(counts[-1]) - int(counts[0])) // NEAR)
        low, high = np.minimum(np.searchsorted(counts, (middle - reach, middle + reach)), len(counts) - 1)
        if low == high:
            return np.zeros(len(table), dtype=np.int64)
        gain = table[:, 0, high, out] - table[:, 0, low, out]
        return np.asarray(np.rint(gain / (counts[high] - counts[low])).astype(np.int64))

    def _features(self, tables: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return float64 [C, F] and weights [F]: differences are averaged over patterns and outputs, a plan is at one of them."""
        scaled = [table / self.scale[:, None, None, None] for table in tables]
        rows = [table.swapaxes(0, 2).reshape(len(self.counts), -1) for table in scaled]
        weight = np.concatenate([np.full(row.shape[1], len(self.scale) / row.shape[1]) for row in rows])
        features = np.concatenate(rows, axis=1)
        differs = np.ptp(features, axis=0) > 0
        return features[:, differs], weight[differs]

    def _runs(self, tables: Sequence[np.ndarray], blur: float, slopes: tuple[np.ndarray, ...]) -> Classes:
        """Return classes that are runs of totals whose tables differ by at most `blur`, taken greedily."""
        features, weight = self._features(tables)
        start = _starts(features, weight, blur)
        spread = (np.maximum.reduceat(features, start) - np.minimum.reduceat(features, start)) @ weight
        loss = float(spread @ np.diff(start, append=len(features))) / len(features)
        return Classes(start=start, slopes=slopes, loss=loss)


def _starts(features: np.ndarray, weight: np.ndarray, blur: float) -> np.ndarray:
    """Return the first row of each run of rows whose weighted differences are at most `blur`."""
    if float(np.ptp(features, axis=0) @ weight) <= blur:
        return np.zeros(1, dtype=np.int64)
    start = [0]
    while True:
        at = start[-1] + 1
        low = high = features[start[-1]]
        while at < len(features):
            chunk = features[at : at + CHUNK]
            lows = np.minimum(np.minimum.accumulate(chunk), low)
            highs = np.maximum(np.maximum.accumulate(chunk), high)
            apart = (highs - lows) @ weight > blur
            if apart.any():
                at += int(apart.argmax())
                break
            at, low, high = at + len(chunk), lows[-1], highs[-1]
        if at >= len(features):
            return np.array(start)
        start.append(at)
