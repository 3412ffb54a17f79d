"""The width of a device's stair: how many channels cost as much as one more (method sections 1 and 5)."""

import numpy as np

WIDTHS = tuple(range(9, 75))
"""Neighbouring channel counts at which the stair is looked for: 64, so stairs up to 32 wide are seen twice, and two
more.
"""
_SHARP = 0.25
_SPARE = 2


def stair_step(widths: np.ndarray, cost_us: np.ndarray) -> int:
    """Return the largest step s whose stairs, flat up to each multiple of s, explain the cost; 1 where the cost has
    no stairs.

    What counts is the least cost of *at least* w channels, E(w) = min over w' >= w of cost(w'): a width that costs
    more than a wider one is never worth keeping, and noise on single widths is mostly cut away. For each s, E is
    averaged over the stairs ((m-1) s, m s]. A smooth cost leaves a share of about 1 / (number of stairs)^2 of the
    variance unexplained; a true staircase leaves next to nothing. The largest s that leaves less than a quarter of
    the smooth cost's share is the step (divisors of the true step pass as well; multiples do not).

    Parameters: `widths` int [n] ascending neighbours, `cost_us` float [n], what one producer and one consumer of that
    many channels cost.
    """
    # The widest have hardly a wider one to lean on, so they only support the others.
    least, widths = np.minimum.accumulate(cost_us[::-1])[::-1][:-_SPARE], widths[:-_SPARE]
    total = float(((least - least.mean()) ** 2).sum())
    if total <= 0:
        return 1
    best = 1
    for step in range(2, len(widths) // 2 + 1):
        stairs = -(-widths // step)
        unexplained = sum(
            float(((least[stairs == s] - least[stairs == s].mean()) ** 2).sum()) for s in np.unique(stairs)
        )
        if unexplained < _SHARP * _smooth_share(widths, stairs) * total:
            best = step
    return best


def _smooth_share(widths: np.ndarray, stairs: np.ndarray) -> float:
    """Return the share of variance that these stairs leave unexplained of a straight line."""
    inside = sum(float(((widths[stairs == s] - widths[stairs == s].mean()) ** 2).sum()) for s in np.unique(stairs))
    return inside / float(((widths - widths.mean()) ** 2).sum())
