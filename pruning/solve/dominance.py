"""Which partial plans to keep: those no other one beats, and of these a variety of costs."""

import numpy as np

DOMINANCE_WINDOW = 16
"""With several budgets a column is compared with this many neighbours in cost order; the rest only costs time."""


def undominated(entry: np.ndarray, value: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Return the rows, sorted by entry, that no other row of the same entry matches at no more cost and no less value.

    Exact for one budget; with several, some dominated rows may stay.
    """
    order = np.lexsort((-value, *cost[::-1], entry))
    entry, value, cost = entry[order], value[order], cost[:, order]
    if not len(order):
        return order
    if len(cost) == 1:
        rank = np.cumsum(np.concatenate(([0], entry[1:] != entry[:-1])))
        lifted = value - value.min() + rank * (int(value.max() - value.min()) + 1)
        best_before = np.concatenate(([-1], np.maximum.accumulate(lifted)[:-1]))
        return np.asarray(order[lifted > best_before])
    keep = np.ones(len(order), dtype=bool)
    for shift in range(1, min(DOMINANCE_WINDOW, len(order) - 1) + 1):
        beaten = (entry[shift:] == entry[:-shift]) & (value[shift:] <= value[:-shift])
        beaten &= (cost[:, shift:] >= cost[:, :-shift]).all(axis=0)
        keep[shift:] &= ~beaten
    return np.asarray(order[keep])


def spread_out(cost: np.ndarray, width: int) -> np.ndarray:
    """Return the order of rows that takes the first of every cell of the costs, then the second of every cell, and so on.

    `cost` is int64 [K, n], the rows best first; there are about `width` cells.
    """
    least, span = cost.min(axis=1, keepdims=True), np.maximum(1, np.ptp(cost, axis=1, keepdims=True))
    bins = max(2, int(width ** (1 / len(cost))))
    place = np.minimum(bins - 1, ((cost - least) / span * bins).astype(np.int64))
    cell = np.ravel_multi_index(tuple(place), (bins,) * len(place))
    by_cell = np.argsort(cell, kind="stable")
    rank = np.empty(len(cell), dtype=np.int64)
    rank[by_cell] = np.arange(len(cell)) - np.searchsorted(cell[by_cell], cell[by_cell])
    return np.argsort(rank, kind="stable")
