"""The best mask of one layer under a pattern: exact, because runs and then block-rows choose for themselves.

Letters: O x I x T = a weight as output channels, input channels and kernel taps (T = 1 for a linear layer); R = block-
rows; K = tiles of a block-row. Source: CRISP, arXiv 2311.14272, section III; lists of channels: method section 4.
"""

import torch
from torch import Tensor

from lut.pattern import Pattern

_OUTSIDE = -1.0
"""Less than any saliency: what may not be kept is chosen last, and then taken away."""


def best_mask(saliency: Tensor, pattern: Pattern, within: Tensor | None = None) -> Tensor:
    """Return the mask under `pattern` that keeps the most saliency, bool in the shape of `saliency`.

    N:M first (top N of each run), then the tiles of each block-row by the saliency that survives in them: no mask of the
    pattern keeps more wherever runs do not straddle tiles; where they do, none with this N:M choice. Ties go to the
    lower index. A last run of k < M channels keeps min(N, k).

    Args:
        saliency: float [O, I], [O, I, k] or [O, I, kh, kw], finite and >= 0, of a layer with `groups == 1`.
        pattern: fitted to the layer here.
        within: an earlier mask; the result is the best of its subsets, so that masks of a schedule nest. Counts of
            the pattern are upper bounds then.

    Raises ValueError for another shape, for saliencies that are negative or not finite, and where the pattern does not
    fit (`Pattern.fitted`).
    """
    layer = as_layer(saliency)
    fitted = pattern.fitted(layer.shape[1], layer.shape[0], layer.shape[2])
    if within is not None and (within.dtype != torch.bool or within.shape != saliency.shape):
        raise ValueError(f"an earlier mask is bool {tuple(saliency.shape)}: {within.dtype} {tuple(within.shape)}")
    allowed = None if within is None else within.reshape(layer.shape)
    kept = survivors(layer, fitted, allowed)
    if fitted.tile_out:
        scores = tile_sums(torch.where(kept, layer, 0), fitted)
        scores = scores.masked_fill(tile_sums(kept, fitted) == 0, _OUTSIDE)
        kept = kept & _spread(_top(scores, fitted.num_kept_tiles(*layer.shape[1:])), fitted, layer.shape)
    return kept.reshape(saliency.shape)


def unstructured_mask(saliency: Tensor, density: float) -> Tensor:
    """Return the mask of the `density * numel` largest saliencies of a layer, at least one; ties to the lower index.

    Raises ValueError for saliencies as `best_mask` does, and for a density outside (0, 1].
    """
    if not 0 < density <= 1:
        raise ValueError(f"a density is in (0, 1]: {density}")
    flat = as_layer(saliency).flatten()
    count = max(1, round(density * flat.numel()))
    least = flat.kthvalue(flat.numel() - count + 1).values
    mask = flat > least
    mask[torch.nonzero(flat == least).flatten()[: count - int(mask.sum())]] = True
    return mask.reshape(saliency.shape)


def as_layer(saliency: Tensor) -> Tensor:
    """Return saliencies as [O, I, T]; errors as in `best_mask`."""
    if saliency.ndim not in (2, 3, 4) or not saliency.numel() or not saliency.is_floating_point():
        shape = tuple(saliency.shape)
        raise ValueError(f"saliency of a layer is float [O, I], [O, I, k] or [O, I, kh, kw]: {saliency.dtype} {shape}")
    least, most = torch.aminmax(saliency.detach())
    if not (least >= 0 and most < torch.inf):
        raise ValueError("saliency is finite and >= 0")
    return saliency.detach().reshape(*saliency.shape[:2], -1)


def survivors(layer: Tensor, fitted: Pattern, allowed: Tensor | None = None) -> Tensor:
    """Return bool [O, I, T]: what N:M alone keeps of saliencies [O, I, T], a subset of `allowed`."""
    free = torch.ones_like(layer, dtype=torch.bool) if allowed is None else allowed
    if fitted.m == 1:
        return free
    if not fitted.shared:
        return _top_of_runs(layer.masked_fill(~free, _OUTSIDE), fitted.n, fitted.m) & free
    rows = (layer.shape[0] // fitted.tile_out, fitted.tile_out, *layer.shape[1:])
    sums = torch.where(free, layer, 0).reshape(rows).sum(dim=(1, 3), dtype=torch.float64)
    sums = sums.masked_fill(~free.reshape(rows).any(dim=3).any(dim=1), _OUTSIDE)
    lists = _top_of_runs(sums[:, :, None], fitted.n, fitted.m)
    return lists[:, None].expand(rows).reshape(layer.shape) & free


def tile_sums(values: Tensor, fitted: Pattern) -> Tensor:
    """Return float64 [R, K]: values [O, I, T] summed over each tile of a fitted pattern, in the order of its tiles."""
    columns = values.transpose(1, 2).flatten(1)[..., None] if fitted.per_tap else values
    grid = columns.reshape(-1, fitted.tile_out, columns.shape[1] // fitted.tile_in, fitted.tile_in, columns.shape[2])
    return grid.sum(dim=(1, 3, 4), dtype=torch.float64)


def _spread(tiles: Tensor, fitted: Pattern, shape: torch.Size) -> Tensor:
    """Return bool `shape` [O, I, T]: the weights of the chosen tiles [R, K]."""
    rows = tiles.repeat_interleave(fitted.tile_out, dim=0).repeat_interleave(fitted.tile_in, dim=1)
    if fitted.per_tap:
        return rows.reshape(shape[0], shape[2], shape[1]).transpose(1, 2)
    return rows[..., None].expand(shape)


def _top(scores: Tensor, count: int) -> Tensor:
    """Return bool in the shape of `scores`: the `count` largest of each row."""
    order = torch.sort(scores, dim=-1, descending=True, stable=True).indices[..., :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order, True)


def _top_of_runs(values: Tensor, n: int, m: int) -> Tensor:
    """Return bool in the shape of `values` [A, I, T]: the n largest of each m consecutive along I.

    Every pair of a run is compared once: for short runs that is many times faster than sorting them.
    """
    a, i, t = values.shape
    padded = torch.nn.functional.pad(values, (0, 0, 0, -i % m), value=-torch.inf)
    run = padded.reshape(a, -1, m, t).unbind(dim=2)
    rank = [torch.zeros_like(run[0], dtype=torch.int16) for _ in run]
    for later in range(1, m):
        for earlier in range(later):
            loses = run[earlier] < run[later]
            rank[earlier] += loses
            rank[later] += ~loses
    return (torch.stack(rank, dim=2) < n).reshape(a, -1, t)[:, :i]
