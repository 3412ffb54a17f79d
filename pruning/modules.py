"""Modules of our own that appear in traced networks: channel selection, channel padding, per-channel affine maps."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class ChannelGather(nn.Module):
    """Channels `index` (axis 1) of the input in that order; -1 stands for a channel of zeros."""

    index: Tensor

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index.to(torch.int64), persistent=False)
        self.span = _span(index)

    def forward(self, x: Tensor) -> Tensor:
        spatial = (0, 0) * (x.ndim - 2)
        if self.span is None:
            # One extra channel of zeros at the end: what index -1 points at.
            return functional.pad(x, (*spatial, 0, 1)).index_select(1, self.index % (x.shape[1] + 1))
        before, start, length, after = self.span
        x = x.narrow(1, start, length)
        return functional.pad(x, (*spatial, before, after)) if before or after else x


class ChannelSelect(ChannelGather):
    """A slice, split or shuffle of channels; never holds -1."""

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.index) if self.span is None else super().forward(x)


class ChannelPad(ChannelGather):
    """Zero channels added to a tensor. Its outputs are channels of their own, so the two sides may be pruned apart."""


class ChannelAffine(nn.Module):
    """y = x * weight + bias for each channel of axis 1; weight, bias float [C]."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, *(1,) * (x.ndim - 2))
        return x * self.weight.reshape(shape) + self.bias.reshape(shape)


AnyPerChannel = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm | ChannelAffine
PER_CHANNEL = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, ChannelAffine)
"""Modules that scale and shift every channel of axis 1 by itself."""


def _span(index: Tensor) -> tuple[int, int, int, int] | None:
    """Return (zeros before, first channel, channels, zeros after) when `index` is one ascending run between zeros."""
    positions = torch.nonzero(index >= 0).flatten().tolist()
    if not positions:
        return None
    first, length = positions[0], len(positions)
    start = int(index[first])
    run = torch.arange(start, start + length)
    if positions[-1] - first + 1 != length or not torch.equal(index[first : first + length].cpu(), run):
        return None
    return first, start, length, len(index) - first - length
