"""What weights cost that no cache keeps for the next inference.

Copies of an operator can rotate through a few MiB of weights in the time that a run may take. A network goes through tens, and
reads them from further away, as fast for one layer as for another. So a few operators with many weights and little to compute
tell for all what a byte costs then: they are timed rotating through few bytes, and through many. Each time they tell another
thing, by a third and more, so they are asked with every chunk of a measurement (`lut.measure.bench`).
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
LEAST_SHARE = 0.5
"""An operator whose copies fill less tells nothing."""
NUM_TELLING = 5
ROUNDS = 2
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


def far_share(through_bytes: float) -> float:
    """Return the share of weights that is read from far by what goes through so many bytes again and again."""
    if through_bytes <= WARM_BYTES:
        return 0.0
    return min(1.0, math.log(through_bytes / WARM_BYTES) / math.log(COLD_BYTES / WARM_BYTES))


class Cold:
    """Operators that rotate through few weights and through many, ready to run."""

    def __init__(self, points: Sequence[Point], lab: Lab, threads: int, max_copies: int) -> None:
        """Build what `points` tell by (`telling`)."""
        self._told = [_Told(lab.operator(signature, *pair), threads, max_copies) for signature, pair in points]

    def us_per_byte(self) -> float:
        """Return what a byte of weights costs more from far than from near just now: the median of what is told; 0 without any."""
        return max(0.0, float(np.median([one.us_per_byte() for one in self._told]))) if self._told else 0.0


class _Told:
    """One of them."""

    def __init__(self, operator: Operator, threads: int, max_copies: int) -> None:
        self._own, self._threads = operator.weight_bytes, threads
        one_s = Timed(operator.run(1, own_outputs=False), threads).quick_s()
        most = max(1, min(max_copies, int(MAX_RUN_S / one_s)))
        self._copies = [min(most, max(1, round(volume / self._own))) for volume in (WARM_BYTES / 2, COLD_BYTES)]
        self._share = far_share(self._copies[1] * self._own)
        self._runs = [operator.run(number, own_outputs=False) for number in self._copies] if self._tells else []
        self._rests = [operator.rest(number) for number in self._copies] if self._tells else []

    @property
    def _tells(self) -> bool:
        return self._share >= LEAST_SHARE

    def us_per_byte(self) -> float:
        if not self._tells:
            return 0.0
        timed = [Timed(run, self._threads) for run in (*self._runs, *self._rests)]
        for _ in range(ROUNDS):
            for one in timed:  # until what each rotates through lies where it does again and again
                one.sample(RUNS, num_warmup=RUNS)
        near, far, *rests = (float(np.median(one.clean_s())) for one in timed)
        near_s, far_s = ((s - rest) / number for s, rest, number in zip((near, far), rests, self._copies, strict=True))
        return 1e6 * (far_s - near_s) / self._own / self._share
