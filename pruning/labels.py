"""Integer tensors whose repeated axes cost nothing, and connected components of integers."""

import numpy as np
from torch import Tensor


def shrunk(x: Tensor, but: int | None = None) -> Tensor:
    """Return `x` with its repeated axes (stride 0) cut to length 1, axis `but` excepted."""
    for d in range(x.ndim):
        if x.shape[d] > 1 and x.stride(d) == 0 and (but is None or d != but % x.ndim):
            x = x.narrow(d, 0, 1)
    return x


def varying_axes(x: Tensor) -> set[int]:
    """Return the axes along which `x` is not constant."""
    x = shrunk(x)
    return {d for d in range(x.ndim) if x.shape[d] > 1 and not bool((x == x.narrow(d, 0, 1)).all())}


def components(count: int, edges: list[np.ndarray]) -> np.ndarray:
    """Return int64 [count]: the smallest id each id is connected to (minimum propagation with pointer jumping)."""
    parent = np.arange(count)
    if not edges:
        return parent
    pairs = np.unique(np.concatenate(edges, axis=1), axis=1)
    while True:
        a, b = parent[pairs[0]], parent[pairs[1]]
        if np.array_equal(a, b):
            return parent
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(parent, parent[parent]):
            parent = parent[parent]
