"""What weights cost that no cache keeps for the next inference.

Copies of an operator can rotate through a few MiB of weights in the time that a run may take. A network goes through tens, and
reads them from further away, as fast for one layer as for another. So a few operators with many weights and little to compute
tell for all what a byte costs then: they are timed rotating through few bytes, and through many.
"""

import math
from collections.abc import Sequence

import numpy as np

from lut.measure.runtime import Lab, Operator
from lut.measure.timing import Timed
from lut.request import GridRequest, num_macs, num_weights
from lut.signature import OpSignature

WARM_BYTES = 6 << 20
"""A rotation through so many, again and again, finds them near;"""
COLD_BYTES = 48 << 20
"""through so many, it does not. Between, the share of what is far grows with the logarithm (seen on ResNet-18)."""
LEAST_WEIGHTS = 1 << 18
MOST_WEIGHTS = 3 << 18
"""An operator tells of which a copy is warm and a few tens are cold."""
NUM_TELLING = 5
ROUNDS = 3
RUNS = 3
MAX_RUN_S = 0.05

Point = tuple[OpSignature, tuple[int, int]]


def telling(requests: Sequence[GridRequest]) -> list[Point]:
    """Return the points that tell: convolutions of the fewest multiply-accumulates for a weight, as wide as is still small enough.

    (A linear layer streams its weights; rotating through them it is as fast from far, in a network it is not.)
    """
    found = []
    for request in requests:
        signature = request.signature
        plain = signature.kind == "conv" and not signature.pattern
        pairs = [(num_weights(signature, *pair), pair) for pair in request.pairs()] if plain else []
        if fitting := [one for one in pairs if LEAST_WEIGHTS <= one[0] <= MOST_WEIGHTS]:
            weights, pair = max(fitting)
            found.append((num_macs(signature, *pair) / weights, signature, pair))
    return [(signature, pair) for _, signature, pair in sorted(found)[:NUM_TELLING]]


def cold_us_per_byte(points: Sequence[Point], lab: Lab, threads: int, max_copies: int) -> float:
    """Return what a byte of weights costs more from far than from near: the median of what `points` tell; 0 without any."""
    told = [_told(lab.operator(signature, *pair), threads, max_copies) for signature, pair in points]
    lab.clear()
    return max(0.0, float(np.median(told))) if told else 0.0


def far_share(through_bytes: float) -> float:
    """Return the share of weights that is read from far by what goes through so many bytes again and again."""
    if through_bytes <= WARM_BYTES:
        return 0.0
    return min(1.0, math.log(through_bytes / WARM_BYTES) / math.log(COLD_BYTES / WARM_BYTES))


def _told(operator: Operator, threads: int, max_copies: int) -> float:
    own = operator.weight_bytes
    one_s = Timed(operator.run(1, own_outputs=False), threads).quick_s()
    most = max(1, min(max_copies, int(MAX_RUN_S / one_s)))
    near, far = (min(most, max(1, round(volume / own))) for volume in (WARM_BYTES / 2, COLD_BYTES))
    if (share := far_share(far * own)) < 0.5:
        return 0.0
    near_s, far_s = _turns(operator, (near, far), threads)
    return 1e6 * (far_s - near_s) / own / share


def _turns(operator: Operator, copies: Sequence[int], threads: int) -> list[float]:
    """Return the seconds of one copy of so many, each run until what it rotates through lies where it does again and again."""
    runs = [operator.run(number, own_outputs=False) for number in copies]
    rests = [Timed(operator.rest(number), threads) for number in copies]
    timed = [Timed(run, threads) for run in runs]
    for _ in range(ROUNDS):
        for one in (*timed, *rests):
            one.sample(RUNS, num_warmup=RUNS)
    return [
        float(np.median(one.clean_s()) - np.median(rest.clean_s())) / number
        for one, rest, number in zip(timed, rests, copies, strict=True)
    ]
