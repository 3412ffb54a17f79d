"""Rules for ONNX pooling over windows."""

import numpy as np
from torch import fx, nn

from pruning.onnx_builder import Builder, Op, UnsupportedOnnx
from pruning.onnx_weighted import padded, pads_of

_Pair = tuple[int, int]


def max_pool(b: Builder, op: Op) -> fx.Node:
    """Return the node of a MaxPool."""
    if op.num_outputs > 1:
        raise UnsupportedOnnx(f"MaxPool of node {op.label} also returns indices")
    kernel, stride, dilation, pads = _window(b, op)
    x, before = op.tensor(), _pair(pads)
    ceil = bool(op.attributes.get("ceil_mode", 0))
    if pads[:2] != pads[2:] or any(2 * p > k for p, k in zip(before, kernel, strict=True)):
        x, before = padded(b, x, pads, value=-np.inf), (0, 0)
    return b.layer(nn.MaxPool2d(kernel, stride, before, dilation, ceil_mode=ceil), op, x)


def average_pool(b: Builder, op: Op) -> fx.Node:
    """Return the node of an AveragePool."""
    kernel, stride, dilation, pads = _window(b, op)
    counted = bool(op.attributes.get("count_include_pad", 0)) or not any(pads)
    if dilation != (1, 1) or (pads[:2] != pads[2:] and not counted):
        raise UnsupportedOnnx(f"AveragePool of node {op.label} has dilations, or uneven padding that it does not count")
    x, before = op.tensor(), _pair(pads)
    if pads[:2] != pads[2:]:
        x, before = padded(b, x, pads), (0, 0)
    ceil = bool(op.attributes.get("ceil_mode", 0))
    return b.layer(nn.AvgPool2d(kernel, stride, before, ceil, counted), op, x)


def _window(b: Builder, op: Op) -> tuple[_Pair, _Pair, _Pair, list[int]]:
    kernel = list(op.attributes["kernel_shape"])
    if len(kernel) != 2:
        raise UnsupportedOnnx(f"{op.kind} of node {op.label} is not two-dimensional")
    stride, dilation = list(op.attributes.get("strides", [1, 1])), list(op.attributes.get("dilations", [1, 1]))
    pads = pads_of(op, b.shape(op.tensor())[2:], kernel, stride, dilation)
    return _pair(kernel), _pair(stride), _pair(dilation), pads


def _pair(values: list[int]) -> _Pair:
    return int(values[0]), int(values[1])
