"""From a sum of operators to a network: scale and offset, fitted on whole networks (method sections 5 and 9)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_ROUNDS = 30
_MIN_SPREAD = 1.25
_MAX_OFFSET = 0.5
_FEWEST = 5
"""Networks that tell of an offset below nothing."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """`measured = scale * predicted + offset_us`, as fitted."""

    scale: float
    offset_us: float = 0.0
    residual: float = 0.0
    """Median of |fitted - measured| / measured over the networks of the fit."""

    def apply(self, predicted_us: float) -> float:
        """Return the calibrated prediction in microseconds."""
        return self.scale * predicted_us + self.offset_us


def fit(predicted_us: Sequence[float], measured_us: Sequence[float]) -> Calibration:
    """Return the scale and offset that take predictions to measurements, not led astray by a few bad measurements.

    Minimises the sum of |scale * p + offset - m| / m by iteratively re-weighted least squares: relative errors,
    because budgets are relative, and absolute values, because one disturbed measurement must not move the fit. With
    one network, or predictions within 25 % of each other, or a fit that no device could have (a negative scale, an
    offset of more than half of the fastest network), the offset is 0 and the scale the median ratio: such fits come of
    noise, and mislead about networks smaller than these. So it is with an offset below nothing, unless it halves the
    error of networks that are left out: there are devices on which large networks pay for more than their operators do.

    Parameters: `predicted_us`, `measured_us` [networks], > 0. Raises ValueError for none, different lengths, or
    values that are not positive.
    """
    predicted, measured = np.asarray(predicted_us, np.float64), np.asarray(measured_us, np.float64)
    if predicted.shape != measured.shape or predicted.ndim != 1 or not predicted.size:
        raise ValueError("a calibration needs one measurement for each prediction, and at least one")
    if not (np.isfinite(predicted) & np.isfinite(measured) & (predicted > 0) & (measured > 0)).all():
        raise ValueError("predictions and measurements must be positive numbers")
    scale, offset = float(np.median(measured / predicted)), 0.0
    if predicted.size > 1 and predicted.max() > _MIN_SPREAD * predicted.min():
        slope, intercept = _least_absolute(predicted, measured)
        possible = slope > 0 and abs(intercept) <= _MAX_OFFSET * measured.min()
        if possible and (intercept >= 0 or _pays(predicted, measured)):
            scale, offset = slope, intercept
    residual = np.median(np.abs(scale * predicted + offset - measured) / measured)
    return Calibration(scale=scale, offset_us=offset, residual=float(residual))


def _pays(predicted: np.ndarray, measured: np.ndarray) -> bool:
    """Return whether a line halves the median error of each network by the fit of the others, beside their median ratio."""
    if len(measured) < _FEWEST:
        return False
    line, ratio = [], []
    for left_out, (told, us) in enumerate(zip(predicted, measured, strict=True)):
        some, others = np.delete(predicted, left_out), np.delete(measured, left_out)
        slope, intercept = _least_absolute(some, others)
        line.append(abs(slope * told + intercept - us) / us)
        ratio.append(abs(np.median(others / some) * told - us) / us)
    return bool(np.median(line) < np.median(ratio) / 2)


def _least_absolute(predicted: np.ndarray, measured: np.ndarray) -> tuple[float, float]:
    """Return (slope, intercept) of the least sum of relative absolute errors."""
    design = np.stack([predicted / measured, 1.0 / measured], axis=1)
    weights = np.ones_like(measured)
    solution = np.zeros(2)
    for _ in range(_ROUNDS):
        root = np.sqrt(weights)
        solution = np.linalg.lstsq(design * root[:, None], root, rcond=None)[0]
        weights = 1.0 / np.maximum(np.abs(design @ solution - 1.0), 1e-6)
    return float(solution[0]), float(solution[1])
