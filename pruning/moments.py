"""Ridge least squares from second moments, so that the rows themselves need not be kept.

Letters: g = parts of a grouped convolution (1 otherwise), r = rows, d = inputs and o = outputs of one part.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 0.01
"""Share of the mean diagonal of the inputs' covariance that is added to the diagonal."""


@dataclass(kw_only=True)
class Moments:
    """Second moments of a layer's inputs and targets, float64, for each part g of a grouped convolution."""

    xx: Tensor
    """[g, d, d]"""
    xy: Tensor
    """[g, d, o]"""
    yy: Tensor
    """[g, o]"""
    sx: Tensor
    """[g, d]"""
    sy: Tensor
    """[g, o]"""
    num_rows: int = 0

    @classmethod
    def zeros(cls, parts: int, inputs: int, outputs: int) -> "Moments":
        """Return empty moments."""
        shapes = ((inputs, inputs), (inputs, outputs), (outputs,), (inputs,), (outputs,))
        xx, xy, yy, sx, sy = (torch.zeros(parts, *shape, dtype=torch.float64) for shape in shapes)
        return cls(xx=xx, xy=xy, yy=yy, sx=sx, sy=sy)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in rows x [r, g * d] and y [r, g * o]."""
        x = x.view(len(x), len(self.xx), -1).transpose(0, 1)
        y = y.reshape(len(y), len(self.xx), -1).transpose(0, 1)
        self.xx += (x.transpose(1, 2) @ x).double()
        self.xy += (x.transpose(1, 2) @ y).double()
        self.yy += y.double().square().sum(1)
        self.sx += x.sum(1, dtype=torch.float64)
        self.sy += y.sum(1, dtype=torch.float64)
        self.num_rows += x.shape[1]

    def solve(self, start: Tensor, intercept: bool, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return V [g, d, o] and c [g, o], the ridge pulling V to `start`.

        With `kept`, bool [g, d, o], V and `start` are zero elsewhere: each output is solved on its own inputs, outputs of
        the same inputs together. The ridge is then a share of those inputs' mean variance.
        """
        mean_x, mean_y = (s / self.num_rows * intercept for s in (self.sx, self.sy))
        covariance = self.xx / self.num_rows - mean_x[:, :, None] * mean_x[:, None, :]
        cross = self.xy / self.num_rows - mean_x[:, :, None] * mean_y[:, None, :]
        if kept is None:
            solved = _ridge(covariance, cross, start)
        else:
            parts = zip(covariance, cross, start, kept, strict=True)
            solved = torch.stack([_ridge_where(*part) for part in parts])
        return solved, mean_y - (solved * mean_x[:, :, None]).sum(1)

    def error(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Return the mean squared distance [g, o] between `x @ weight + bias` and y."""
        squared = (weight * (self.xx @ weight)).sum(1) + self.yy - 2 * (weight * self.xy).sum(1)
        linear = (weight * self.sx[:, :, None]).sum(1) - self.sy
        return ((squared + 2 * bias * linear) / self.num_rows + bias.square()).clamp(min=0)

    def variance(self) -> Tensor:
        """Return the variance [g, o] of y."""
        return (self.yy / self.num_rows - (self.sy / self.num_rows).square()).clamp(min=0)


def _ridge(covariance: Tensor, cross: Tensor, start: Tensor) -> Tensor:
    """Return V [..., d, o] from the covariance [..., d, d] of the inputs and theirs with the targets [..., d, o]."""
    diagonal = covariance.diagonal(dim1=-2, dim2=-1)
    damped = covariance + torch.diag_embed(
        (RIDGE * diagonal.mean(-1, keepdim=True)).clamp(min=1e-12).expand_as(diagonal)
    )
    solved: Tensor = start + torch.linalg.solve(damped, cross - covariance @ start)
    return solved


def _ridge_where(covariance: Tensor, cross: Tensor, start: Tensor, kept: Tensor) -> Tensor:
    """Return V [d, o] that is zero outside `kept` [d, o]: one solve for each set of inputs that some outputs share."""
    solved = torch.zeros_like(start)
    sets, which = torch.unique(kept, dim=1, return_inverse=True)
    for number in range(sets.shape[1]):
        inputs, outputs = sets[:, number].nonzero(), (which == number).nonzero().T
        if len(inputs):
            solved[inputs, outputs] = _ridge(
                covariance[inputs, inputs.T], cross[inputs, outputs], start[inputs, outputs]
            )
    return solved
