"""Problems of real networks: traced here, priced by a synthetic device whose latency is a staircase.

An operator takes its multiply-accumulates, at channel counts rounded up to the device's stairs, at a fixed rate, plus a
fixed cost. Every stair of every operator is a few per cent faster or slower than that, so latency is not monotone.
Saliencies are drawn, long-tailed, every coupling group with a scale of its own.
"""

import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lut.profile import DeviceProfile
from lut.request import num_macs
from lut.signature import OpSignature
from lut.table import LatencyTable
from pruning.architectures import build
from pruning.groups import coupling_groups
from pruning.operators import operators
from pruning.predict import predicted_us
from pruning.problem import Problem
from pruning.stages import removable_stages
from pruning.tables import build_problem, group_values, latency_limit
from pruning.trace import trace

SIZES = {"inception_v3": 299}
STAIR_IN, STAIR_OUT = 4, 16
MACS_PER_US = 60_000.0
FIXED_US = 2.0
NOISE = 0.015
MAX_STAIRS = 4096
SYNTHETIC = DeviceProfile(hardware="synthetic", runtime="none", runtime_version="0", threads=1, batch=1)


class Staircase(LatencyTable):
    """A device that is known everywhere, by a formula."""

    def grid_us(self, signature: OpSignature, c_ins: Sequence[int], c_outs: Sequence[int]) -> np.ndarray:
        """Return float64 [len(c_ins), len(c_outs)] microseconds."""
        stairs_in, stairs_out = -(-np.array(c_ins) // STAIR_IN), -(-np.array(c_outs) // STAIR_OUT)
        macs = [[num_macs(signature, i * STAIR_IN, o * STAIR_OUT) for o in stairs_out] for i in stairs_in]
        random = np.random.default_rng(zlib.crc32(repr(signature).encode()))
        noise_in, noise_out = random.uniform(1 - NOISE, 1 + NOISE, (2, MAX_STAIRS))
        noise = np.outer(noise_in[stairs_in], noise_out[stairs_out])
        return np.asarray((FIXED_US + np.array(macs) / MACS_PER_US) * noise)


def traced_problems(network: str, num_widths: int, budgets: Sequence[float], seed: int = 0) -> list[Problem]:
    """Return the problem of a torchvision network at each of `budgets` times its dense latency.

    Every coupling group offers at most `num_widths` widths, evenly spread; branches with a skip path are removable.
    """
    size = SIZES.get(network, 224)
    traced = trace(build(f"torchvision/{network}", 10), (3, size, size))
    groups = coupling_groups(traced)
    costs = operators(traced, groups)
    free = [group for group in groups if not group.frozen]
    choices = {group.id: _widths(group.units, num_widths) for group in free}
    table = Staircase(profile=SYNTHETIC, entries={})
    random = np.random.default_rng(seed)
    saliency = {group.id: _drawn(random, group.units) for group in free}
    dense_us = predicted_us(costs, {group.id: group.units for group in free}, table)
    problem = build_problem(
        costs,
        choices,
        group_values(saliency, choices),
        latency_limit(table, int(1000 * dense_us)),
        stages=removable_stages(traced, groups, costs),
    )
    return [replace(problem, budget_ns=int(1000 * budget * dense_us)) for budget in budgets]


def _drawn(random: np.random.Generator, units: int) -> np.ndarray:
    """Return one saliency per unit; groups differ in what all their units are worth together, not by their size."""
    drawn = random.lognormal(0.0, 1.0, units)
    return np.asarray(random.gamma(2.0) * drawn / drawn.sum())


def _widths(units: int, num_widths: int) -> tuple[int, ...]:
    return tuple(sorted({max(1, round(units * (k + 1) / num_widths)) for k in range(num_widths)}))
