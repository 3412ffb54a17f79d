"""What a sparse kernel of the usual kind does with the same tiles: MKL's block-sparse matrix product, through PyTorch."""

import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from lut.pattern import Pattern
from pruning.network import Network

ROUNDS = 7


def bsr_ms(network: Network, masks: Mapping[str, Tensor], pattern: Pattern) -> dict[str, object]:
    """Return the time of all masked 1x1 convolutions of stride 1 and linear layers as products W x of a weight
    [C_out, C_in] and a map [C_in, H W]: dense and as `torch.sparse_bsr`, in turns, one thread; and the largest
    difference between the two, relative to the largest output where that is above 1.

    Layers of one shape are timed once. Only square tiles have a kernel.
    """
    if pattern.tile_out != pattern.tile_in:
        return {"dense_ms": None, "lowered_ms": None, "max_abs_error": None, "reason": "MKL has square blocks alone"}
    shapes: Counter[tuple[int, int, int]] = Counter()
    weights: dict[tuple[int, int, int], Tensor] = {}
    for node in network.module.graph.nodes:
        layer = network.module.get_submodule(str(node.target)) if node.target in masks else None
        plain = isinstance(layer, nn.Linear) or getattr(layer, "kernel_size", ()) == getattr(layer, "stride", 0) == (
            1,
            1,
        )
        if isinstance(layer, nn.Linear | nn.Conv2d) and plain:
            weight = (layer.weight.detach() * masks[str(node.target)]).flatten(1)
            key = (*weight.shape, int(torch.Size(node.meta["shape"][2:]).numel()))
            shapes[key] += 1
            weights[key] = weight
    if not shapes:
        return {"dense_ms": None, "lowered_ms": None, "max_abs_error": None, "reason": "no such layer"}
    dense_ms = sparse_ms = error = 0.0
    for (c_out, c_in, pixels), count in shapes.items():
        weight, x = weights[c_out, c_in, pixels], torch.randn(c_in, pixels)
        fitted = pattern.fitted(c_in, c_out)
        tile = min(fitted.tile_out, fitted.tile_in)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # its support is "in beta state"
            sparse = weight.to_sparse_bsr((tile, tile))
        expected = weight @ x
        error = max(error, float((sparse @ x - expected).abs().max() / expected.abs().max().clamp(min=1)))
        dense, lowered = _in_turns(lambda w=weight, x=x: w @ x, lambda w=sparse, x=x: w @ x)  # type: ignore[misc]
        dense_ms += count * dense
        sparse_ms += count * lowered
    return {"dense_ms": dense_ms, "lowered_ms": sparse_ms, "max_abs_error": error}


def _in_turns(*functions: Callable[[], Tensor]) -> list[float]:
    samples: list[list[float]] = [[] for _ in functions]
    for _ in range(ROUNDS):
        for function, times in zip(functions, samples, strict=True):
            function()
            start = time.perf_counter()
            function()
            times.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(times) for times in samples]
