"""A latency table's scale and offset, fitted on whole slimmed networks, and what its masked layers take (method section 9)."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from lut.calibrate import fit, fit_masked
from lut.table import LatencyTable

NUM_NETWORKS = 8
"""Slimmed networks a table is calibrated on, beside the dense one;"""
NUM_MASKED = 4
"""and masked ones, where patterns are on offer."""


def calibrated(table: LatencyTable, sums_us: Sequence[float], measured_us: Sequence[float]) -> LatencyTable:
    """Return the table with scale, offset and residual fitted on whole networks without masks, whatever they were before.

    `sums_us` are the plain sums of entries (`plain(table)`). Raises ValueError as `lut.calibrate.fit`.
    """
    calibration = fit(sums_us, measured_us)
    return replace(plain(table).calibrated(calibration), residual=calibration.residual, masked_scale=table.masked_scale)


def masks_calibrated(
    table: LatencyTable, predict_us: Sequence[Callable[[LatencyTable], float]], measured_us: Sequence[float]
) -> LatencyTable:
    """Return the table, calibrated on slimmed networks, with what masked layers take in networks over what they take by themselves;
    as it is where there are none.

    A runtime changes layouts around gathers and grouped convolutions, and fuses less there than it does for one operator by itself.

    Parameters: `predict_us` gives the latency of each masked network by a table's word, `measured_us` what each took.
    """
    if not measured_us:
        return table
    bare, once = replace(table, masked_scale=0.0), replace(table, masked_scale=1.0)
    dense_us = [predict(bare) for predict in predict_us]
    masked_us = [predict(once) - without for predict, without in zip(predict_us, dense_us, strict=True)]
    return replace(table, masked_scale=fit_masked(dense_us, masked_us, measured_us))


def plain(table: LatencyTable) -> LatencyTable:
    """Return the table without its calibration."""
    return replace(table, scale=1.0, offset_us=0.0, masked_scale=1.0, residual=0.0)
