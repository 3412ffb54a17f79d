"""What a device of the job says: its table, its measurements, and its budget."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lut.calibrate import Calibration
from lut.measure.runtime import Program
from lut.table import LatencyTable
from pruning.export import to_onnx
from pruning.network import Network
from pruning.search import Measurement
from workers.steps.targets import Target

AGREE = 0.03
"""A network's measurements agree when the two slowest are no further apart than this."""
MOST_TIMES = 4


@dataclass(frozen=True, kw_only=True)
class Gauge:
    """One device of the job, with its table and what the dense network takes there."""

    target: Target
    table: LatencyTable
    dense: Program
    dense_ms: float
    budget_ms: float

    def measure(self, network: Network, path: Path, times: int) -> Measurement:
        """Write a network to `path` and return its latency, interleaved with the dense network and put on the scale of its first measurement.

        A machine has moods in which one network suffers more than another, and a network loaded again lies elsewhere in memory: of
        `times` measurements the slowest counts, and where another one does not confirm it, up to four are made. NaN where this worker
        cannot measure.
        """
        if not self.target.here:
            return Measurement(p50_ms=math.nan, p90_ms=math.nan)
        to_onnx(network, path, batch=self.target.profile.batch)
        program, seen = self.target.program(network, path), list[Measurement]()
        while len(seen) < times or (1 < len(seen) < MOST_TIMES and not _agree(seen)):
            dense, slim = self.target.meter.networks([self.dense, program])
            p50_ms = self.dense_ms * slim.over(dense)
            seen.append(Measurement(p50_ms=p50_ms, p90_ms=p50_ms * slim.p90_ms / slim.p50_ms))
        return max(seen, key=lambda one: one.p50_ms)


def _agree(seen: Sequence[Measurement]) -> bool:
    second, slowest = sorted(one.p50_ms for one in seen)[-2:]
    return slowest <= (1 + AGREE) * second


def gauge(
    target: Target, table: LatencyTable, program: Program, dense: Mapping[str, Any], predicted_ms: float
) -> Gauge:
    """Return the gauge of a target; where the dense network was measured, its table is scaled to predict just that.

    `dense` holds `p50_ms` and `budget_ms` as the job began, null where this worker cannot measure.
    """
    if not target.here:
        return Gauge(
            target=target, table=table, dense=program, dense_ms=predicted_ms,
            budget_ms=target.limit_ms(predicted_ms),
        )  # fmt: skip
    table = table.calibrated(Calibration(scale=dense["p50_ms"] / predicted_ms))
    return Gauge(target=target, table=table, dense=program, dense_ms=dense["p50_ms"], budget_ms=dense["budget_ms"])
