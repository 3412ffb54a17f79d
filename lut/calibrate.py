"""From a sum of operators to a network: scale, offset and what masked layers take, fitted on whole networks (method sections 5 and 9)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_ROUNDS = 30
NOISE = 0.02
"""What a whole network's measurement scatters by, relative: larger errors pull in proportion, and not with their squares."""
USUAL_OFFSET = 0.2
"""Offsets that make up this share of the network that they are the most of cost the fit as much as one network that is off by `NOISE`,"""
_MAX_OFFSET = 0.5
"""and above this share they are none that a device has."""
LEAST_SHARE = 0.5
"""Of what an operator takes by itself it takes at least this in a network, whatever an offset below nothing says."""
USUAL_MASKED = 0.1
"""Masked layers that take this much more, or less, in networks than by themselves cost a fit as much."""
_MASKED = (0.5, 2.0)
"""What they may take at all."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """`measured = scale * predicted + offset_us * number of operators`, as fitted."""

    scale: float
    offset_us: float = 0.0
    """Of every operator."""
    residual: float = 0.0
    """Median of |fitted - measured| / measured over the networks of the fit."""

    def apply(self, predicted_us: float, num_operators: float) -> float:
        """Return the calibrated prediction in microseconds."""
        return self.scale * predicted_us + self.offset_us * num_operators


def fit(predicted_us: Sequence[float], num_operators: Sequence[float], measured_us: Sequence[float]) -> Calibration:
    """Return the scale and offset that take predictions to measurements, not led astray by a few bad measurements.

    Errors are relative, because budgets are, and count by Huber's loss: as squares up to `NOISE`, in proportion beyond, because one
    disturbed measurement must not move the fit. The offset is each operator's: what it costs more to be called among others, whose code
    and data take its place in the caches, than over and over by itself. It may lie below nothing (of what it took by itself,
    something is paid once in a network), and is held towards nothing as strongly as `USUAL_OFFSET` says: one network, or a few of
    one size, give a scale alone, and the scatter of networks of all sizes hardly an offset. Of a fit that no device could have (a
    negative scale, offsets of more than half of a network) nothing is used but the median ratio.

    Parameters: `predicted_us`, `num_operators`, `measured_us` [networks], > 0. Raises ValueError for none, different lengths, or
    values that are not positive.
    """
    values = [np.asarray(some, np.float64) for some in (predicted_us, num_operators, measured_us)]
    predicted, num, measured = values
    if {some.shape for some in values} != {(predicted.size,)} or not predicted.size:
        raise ValueError("a calibration needs one measurement for each prediction, and at least one")
    if not all((np.isfinite(some) & (some > 0)).all() for some in values):
        raise ValueError("predictions and measurements must be positive numbers")
    scale, offset = _line(predicted, num, measured)
    if scale <= 0 or abs(offset) * (num / measured).max() > _MAX_OFFSET:
        scale, offset = float(np.median(measured / predicted)), 0.0
    residual = np.median(np.abs(scale * predicted + offset * num - measured) / measured)
    return Calibration(scale=scale, offset_us=offset, residual=float(residual))


def operator_us(alone_us: np.ndarray, offset_us: float) -> np.ndarray:
    """Return what operators take in a network that take `alone_us` >= 0 by themselves; shape as `alone_us`.

    An offset below nothing was seen on operators of some size, and says nothing of far smaller ones: none has more than
    `LEAST_SHARE` of its own latency taken away.
    """
    return np.maximum(alone_us + offset_us, LEAST_SHARE * alone_us)


def fit_masked(dense_us: Sequence[float], masked_us: Sequence[float], measured_us: Sequence[float]) -> float:
    """Return what masked layers take in whole networks over what they take by themselves, 0.5 to 2; 1 where no network tells.

    Errors count as in `fit`, and the ratio is held towards 1 as strongly as `USUAL_MASKED` says.

    Parameters: [networks] each: `dense_us` what the calibrated table tells of all but the masked layers, `masked_us` of those,
    >= 0, and `measured_us`, > 0.
    """
    dense, masked, measured = (np.asarray(values, np.float64) for values in (dense_us, masked_us, measured_us))
    missed = 1.0 - (dense + masked) / measured
    more = _least((masked / measured)[:, None], missed, np.array([[1.0 / USUAL_MASKED]]))
    return float(np.clip(1.0 + more[0], *_MASKED))


def _line(predicted: np.ndarray, num: np.ndarray, measured: np.ndarray) -> tuple[float, float]:
    """Return (scale, offset) of the least loss."""
    design = np.stack([predicted, num], axis=1) / measured[:, None]
    held = np.array([[0.0, design[:, 1].max() / USUAL_OFFSET]])
    scale, offset = _least(design, np.ones_like(measured), held)
    return float(scale), float(offset)


def _least(design: np.ndarray, wanted: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Return x, float64 [k], by iteratively re-weighted least squares: the least Huber loss of (`design` [n, k] x - `wanted` [n]) / NOISE,
    and squares of `held` [h, k] x.
    """
    rows, goals = design / NOISE, wanted / NOISE
    weights, solution = np.ones(len(goals)), np.zeros(design.shape[1])
    for _ in range(_ROUNDS):
        root = np.sqrt(weights)
        weighted = np.vstack([rows * root[:, None], held]), np.append(goals * root, np.zeros(len(held)))
        solution = np.linalg.lstsq(*weighted, rcond=None)[0]
        weights = 1.0 / np.maximum(np.abs(rows @ solution - goals), 1.0)
    return np.asarray(solution)
