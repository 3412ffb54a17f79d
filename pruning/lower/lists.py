"""The block-row structure of a mask: which input channels each run of output channels reads.

Letters: B = tile_out, output channels of a block-row; R = block-rows of a layer, the last may be smaller.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class BlockRows:
    """What a layer reads: block-row r is output channels r B to (r + 1) B and reads the input channels `lists[r]`."""

    tile_out: int
    lists: tuple[Tensor, ...]
    """Int64 [K_r] each: ascending input channels, a list may be empty."""

    @property
    def longest(self) -> int:
        """Input channels of the longest list, at least 1."""
        return max(1, *(len(channels) for channels in self.lists))


def lists_of(mask: Tensor) -> BlockRows | None:
    """Return the coarsest block-rows of a mask: bool [C_out, C_in, ...], True = keep.

    An output channel reads an input channel when it keeps any of that channel's taps. Every B consecutive output
    channels that keep anything at all read the same ones, and B is the largest number for which that holds; the last
    block-row may be smaller. None where the output channels have nothing in common (B = 1), and for a mask that keeps
    nothing. Source: method, section 4.
    """
    reads = mask.flatten(2).any(2) if mask.ndim > 2 else mask
    alive = reads.any(1).nonzero().flatten()
    if not len(alive):
        return None
    # An output channel without inputs may join either neighbour: a border lies between channels that do differ.
    differ = (reads[alive[1:]] != reads[alive[:-1]]).any(1)
    before, after = alive[:-1][differ], alive[1:][differ]
    rows = len(mask)
    tile = next(size for size in range(rows, 0, -1) if bool((before // size != after // size).all()))
    if tile == 1 and rows > 1:
        return None
    blocks = torch.split(reads, tile)
    return BlockRows(tile_out=tile, lists=tuple(block.any(0).nonzero().flatten() for block in blocks))
