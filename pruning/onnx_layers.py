"""ONNX spellings of the layers that take more than a line: pooling of every kind, multi-head self-attention."""

from typing import Any

import numpy as np
import torch
from torch import nn

from pruning.onnx_writer import Writer


def pool(
    out: Writer, module: nn.Module, x: str, before: tuple[int, ...], after: tuple[int, ...], name: str
) -> str | None:
    """Add a pooling layer between maps of shapes `before` and `after` [N, C, H, W]; None for any other module."""
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        if isinstance(module, nn.AvgPool2d) and module.divisor_override:
            return None
        kernel, padding = _pair(module.kernel_size), _pair(module.padding)
        window: dict[str, Any] = {
            "kernel_shape": kernel,
            "strides": _pair(module.stride or kernel),
            "pads": [*padding, *padding],
        }
        window["ceil_mode"] = int(module.ceil_mode)
        if isinstance(module, nn.MaxPool2d):
            return out.node("MaxPool", [x], name, dilations=_pair(module.dilation), **window)
        return out.node("AveragePool", [x], name, count_include_pad=int(module.count_include_pad), **window)
    if not isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d) or len(before) != 4:
        return None
    average = isinstance(module, nn.AdaptiveAvgPool2d)
    if before == after:
        return x
    if after[2:] == (1, 1):
        return out.node("GlobalAveragePool" if average else "GlobalMaxPool", [x], name)
    if before[2] % after[2] == 0 and before[3] % after[3] == 0:
        cell = [before[2] // after[2], before[3] // after[3]]
        return out.node("AveragePool" if average else "MaxPool", [x], name, kernel_shape=cell, strides=cell)
    return _uneven_average(out, x, before, after, name) if average else None


def _uneven_average(out: Writer, x: str, before: tuple[int, ...], after: tuple[int, ...], name: str) -> str:
    """Adaptive average pooling whose cells differ in size: a product with averaging matrices from both sides."""
    rows, columns = (_averages(b, a) for b, a in zip(before[2:], after[2:], strict=True))
    wide = out.node("MatMul", [x, out.weight(torch.from_numpy(columns.T), f"{name}_columns")], f"{name}_wide")
    return out.node("MatMul", [out.weight(torch.from_numpy(rows), f"{name}_rows"), wide], name)


def _averages(size: int, cells: int) -> np.ndarray:
    """Return float32 [cells, size]: row i averages the positions floor(i size / cells) .. ceil((i+1) size / cells)."""
    matrix = np.zeros((cells, size), dtype=np.float32)
    for i in range(cells):
        start, stop = i * size // cells, -(-(i + 1) * size // cells)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix


def attention(out: Writer, module: nn.MultiheadAttention, x: str, shape: tuple[int, ...], name: str) -> str:
    """Add self-attention over x [N, T, D]: softmax(q k^T / sqrt(d)) v for each head, then the output projection."""
    batch, tokens, width = shape
    heads, depth = module.num_heads, module.head_dim
    assert module.in_proj_weight is not None
    joint = _affine(out, x, module.in_proj_weight, module.in_proj_bias, f"{name}_in")
    split = out.reshape(joint, (batch, tokens, 3, heads, depth), f"{name}_heads")
    moved = out.node("Transpose", [split], f"{name}_qkv", perm=[2, 0, 3, 1, 4])
    parts = out.split(moved, (1, 1, 1), 0, f"{name}_part")
    query, key, value = (out.reshape(part, (batch, heads, tokens, depth), f"{part}_map") for part in parts)
    scaled = out.node("Mul", [query, out.scalar(depth**-0.5)], f"{name}_scaled")
    turned = out.node("Transpose", [key], f"{name}_turned", perm=[0, 1, 3, 2])
    weights = out.node("Softmax", [out.node("MatMul", [scaled, turned], f"{name}_scores")], f"{name}_weights", axis=-1)
    mixed = out.node(
        "Transpose", [out.node("MatMul", [weights, value], f"{name}_mixed")], f"{name}_back", perm=[0, 2, 1, 3]
    )
    flat = out.reshape(mixed, (batch, tokens, width), f"{name}_flat")
    return _affine(out, flat, module.out_proj.weight, module.out_proj.bias, name)


def _affine(out: Writer, x: str, weight: torch.Tensor, bias: torch.Tensor | None, name: str) -> str:
    product = out.node("MatMul", [x, out.weight(weight.t(), f"{name}.weight")], f"{name}_product")
    return product if bias is None else out.node("Add", [product, out.weight(bias, f"{name}.bias")], name)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
