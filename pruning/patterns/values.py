"""Value tables of the knapsack: the saliency each pattern keeps at every width (method section 3).

Letters: P patterns, O x I x T = a weight as output channels, input channels and kernel taps; K = tiles of a block-row.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lut.pattern import Pattern
from pruning.patterns.masks import as_layer, survivors


def value_table(
    saliency: Tensor, patterns: Sequence[Pattern], c_ins: Sequence[int], c_outs: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the values float64 [P, n_in, n_out], and bool of that shape: where a pattern differs from dense.

    A value is the saliency under `best_mask` of the pattern on the leading c_out x c_in channels. Where the pattern does
    not fit them, or would keep all, the value is the dense one and the second table is False: price it as dense.

    Args:
        saliency: of one layer as in `best_mask`, its channels ranked, so that widths are prefixes.
        patterns: shares are taken as they are.
        c_ins: input channels, each within 0..I.
        c_outs: output channels, each within 0..O.

    Raises ValueError for saliencies as `best_mask` does, and for widths out of range.
    """
    layer = as_layer(saliency)
    for widths, channels in ((c_ins, layer.shape[1]), (c_outs, layer.shape[0])):
        if min(widths, default=0) < 0 or max(widths, default=0) > channels:
            raise ValueError(f"widths are between 0 and the layer's {channels} channels: {list(widths)}")
    sums = torch.zeros(layer.shape[0] + 1, layer.shape[1] + 1, dtype=torch.float64)
    sums[1:, 1:] = layer.sum(dim=2, dtype=torch.float64).cumsum(0).cumsum(1)
    dense = sums[list(c_outs)][:, list(c_ins)].T.numpy()
    values = np.repeat(dense[None], len(patterns), axis=0)
    fits = np.zeros(values.shape, dtype=bool)
    for p, pattern in enumerate(patterns):
        kept = _Kept(layer, pattern)
        for i, c_in in enumerate(c_ins):
            columns = kept.columns(c_in)
            for j, c_out in enumerate(c_outs):
                if (fitted := _fitted(pattern, c_in, c_out, layer.shape[2])) is not None:
                    values[p, i, j] = _value(columns[:c_out], fitted, c_in, layer.shape[2])
                    fits[p, i, j] = True
    return values, fits


class _Kept:
    """What element-wise N:M leaves of every row, at any number of input channels; shared N:M is left for later."""

    def __init__(self, layer: Tensor, pattern: Pattern) -> None:
        self.layer, self.pattern = layer, pattern
        self.run = 1 if pattern.shared else pattern.m
        self.full = self._rows(layer)

    def columns(self, c_in: int) -> Tensor:
        """Return [O, K]: saliency of each row in each tile of the first `c_in` channels; of each channel if shared."""
        whole = c_in - c_in % self.run
        rows = self.full[..., :whole]
        if whole < c_in:  # the last run is cut short, so it chooses anew
            rows = torch.cat([rows, self._rows(self.layer[:, whole:c_in])], dim=2)
        pattern = self.pattern
        if pattern.shared or not pattern.tile_out or not c_in:
            return rows.flatten(1)
        tile_in = pattern.fitted(c_in, len(rows), self.layer.shape[2]).tile_in
        return rows.reshape(len(rows), -1, tile_in).sum(dim=2, dtype=torch.float64)

    def _rows(self, layer: Tensor) -> Tensor:
        """Return [O, T, I] of what stays for tiles of one tap, and else [O, 1, I], summed over the taps."""
        if self.run > 1:
            layer = torch.where(survivors(layer, self.pattern), layer, 0)
        if self.pattern.per_tap:
            return layer.transpose(1, 2).contiguous()
        return layer.sum(dim=2, dtype=torch.float64)[:, None]


def differs(pattern: Pattern, c_in: int, c_out: int, num_taps: int) -> bool:
    """Return False where the pattern does not fit a layer of these channels, or would keep all of it: it is dense then."""
    return _fitted(pattern, c_in, c_out, num_taps) is not None


def _fitted(pattern: Pattern, c_in: int, c_out: int, num_taps: int) -> Pattern | None:
    """Return the pattern fitted to these widths; None where it does not fit or keeps everything."""
    if not c_in or not c_out:
        return None
    try:
        fitted = pattern.fitted(c_in, c_out, num_taps)
    except ValueError:
        return None
    columns = c_in * num_taps if fitted.per_tap else c_in
    all_tiles = not fitted.tile_out or fitted.num_kept_tiles(c_in, num_taps) * fitted.tile_in == columns
    all_runs = fitted.m == 1 or c_in <= fitted.n
    return None if all_tiles and all_runs else fitted


def _value(columns: Tensor, fitted: Pattern, c_in: int, num_taps: int) -> float:
    """Return the saliency the best mask keeps of rows that are given by tile (shared N:M: by channel)."""
    if not fitted.tile_out:
        return float(columns.sum())
    tiles = columns.reshape(-1, fitted.tile_out, columns.shape[1]).sum(dim=1, dtype=torch.float64)
    if fitted.shared:
        best = tiles.reshape(len(tiles), -1, fitted.m).topk(fitted.n, dim=2).values.sum(dim=2)
        tiles = best.reshape(len(tiles), -1, fitted.tile_in // fitted.m).sum(dim=2)
    return float(tiles.topk(fitted.num_kept_tiles(c_in, num_taps), dim=1).values.sum())
