"""Rules for the ONNX operators that carry weights, and for constants that belong to the layer before them."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from pruning.modules import ChannelAffine
from pruning.onnx_builder import Builder, Op, UnsupportedOnnx


def tensor_of(op: Op) -> Any:
    """Return the first input as it is."""
    return op.inputs[0]


def pads_of(
    op: Op, sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    """Return explicit padding [begin of each axis, end of each axis] of a window operator, `auto_pad` resolved."""
    auto = op.attributes.get("auto_pad", b"NOTSET").decode()
    if auto == "NOTSET":
        return list(op.attributes.get("pads", [0] * (2 * len(kernel))))
    if auto == "VALID":
        return [0] * (2 * len(kernel))
    begins, ends = [], []
    for size, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        total = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
        small, large = total // 2, total - total // 2
        begins.append(small if auto == "SAME_UPPER" else large)
        ends.append(large if auto == "SAME_UPPER" else small)
    return begins + ends


def padded(b: Builder, x: fx.Node, pads: Sequence[int], value: float = 0.0) -> fx.Node:
    """Add padding of the spatial axes: [begin of each axis, end of each axis]."""
    half = len(pads) // 2
    pairs = [side for axis in range(half - 1, -1, -1) for side in (pads[axis], pads[half + axis])]
    return b.call(functional.pad, x, tuple(pairs), "constant", value)


def linear_bias(b: Builder, op: Op, x: fx.Node, constant: np.ndarray) -> fx.Node | None:
    """Give a layer without bias the constant that is added to its output; None where that is not what happens."""
    module = b.module(x)
    if module is None or not _read_once(b, op) or getattr(module, "bias", 0) is not None:
        return None
    size = constant.size
    if isinstance(module, nn.Linear) and size == module.out_features == constant.shape[-1]:
        module.bias = nn.Parameter(_float(constant.reshape(-1)))
        return x
    if isinstance(module, nn.Conv2d) and size == module.out_channels and _on_channels(b, x, constant):
        module.bias = nn.Parameter(_float(constant.reshape(-1)))
        return x
    return None


def absorbed_affine(
    b: Builder, op: Op, x: fx.Node, constant: np.ndarray, function: Any, flipped: bool
) -> fx.Node | None:
    """Make a per-channel constant a `ChannelAffine`, or part of the one before; None where it is not per channel."""
    if not _on_channels(b, x, constant) or (flipped and function in (operator.sub, operator.truediv)):
        return None
    values = _float(constant.reshape(-1))
    scale = (
        values if function is operator.mul else 1 / values if function is operator.truediv else torch.ones_like(values)
    )
    shift = values if function is operator.add else -values if function is operator.sub else torch.zeros_like(values)
    module = b.module(x)
    if isinstance(module, ChannelAffine) and _read_once(b, op):
        with torch.no_grad():
            module.weight.mul_(scale)
            module.bias.mul_(scale).add_(shift)
        return x
    return b.layer(ChannelAffine(scale, shift), op, x)


def _read_once(b: Builder, op: Op) -> bool:
    """Return whether nothing but `op` reads the tensor it changes."""
    name = next(n for n, value in zip(op.input_names, op.inputs, strict=True) if isinstance(value, fx.Node))
    return b.uses[name] == 1


def _on_channels(b: Builder, x: fx.Node, constant: np.ndarray) -> bool:
    shape = b.shape(x)
    aligned = (1,) * (len(shape) - constant.ndim) + constant.shape
    return len(shape) in (2, 4) and aligned == (1, shape[1], *(1,) * (len(shape) - 2))


def _float(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32))


def _conv(b: Builder, op: Op) -> fx.Node:
    weight, bias, x = op.constant(1), op.constant(2), op.tensor()
    if weight.ndim != 4:
        raise UnsupportedOnnx(f"Conv of node {op.label} is not two-dimensional")
    kernel, groups = list(weight.shape[2:]), int(op.attributes.get("group", 1))
    stride, dilation = (list(op.attributes.get(name, [1, 1])) for name in ("strides", "dilations"))
    pads = pads_of(op, b.shape(x)[2:], kernel, stride, dilation)
    if pads[:2] != pads[2:]:
        x, pads = padded(b, x, pads), [0] * 4
    c_out, c_in = weight.shape[0], weight.shape[1] * groups
    window = {"stride": tuple(stride), "padding": tuple(pads[:2]), "dilation": tuple(dilation), "groups": groups}
    conv = nn.Conv2d(c_in, c_out, tuple(kernel), bias=bias is not None, device="meta", **window)  # type: ignore[arg-type]
    _fill(conv, weight, bias)
    return b.layer(conv, op, x)


def _gemm(b: Builder, op: Op) -> fx.Node:
    alpha, beta = op.attributes.get("alpha", 1.0), op.attributes.get("beta", 1.0)
    if op.attributes.get("transA", 0):
        raise UnsupportedOnnx(f"Gemm of node {op.label} transposes the images")
    weight, bias = op.constant(1) * np.float32(alpha), op.constant(2)
    weight = weight if op.attributes.get("transB", 0) else weight.T
    bias = None if bias is None else np.broadcast_to(bias.reshape(-1) * np.float32(beta), weight.shape[:1])
    return b.layer(_linear(weight, bias), op, op.tensor())


def _matmul(b: Builder, op: Op) -> fx.Node:
    one, other = op.inputs
    if isinstance(one, fx.Node) and isinstance(other, np.ndarray) and other.ndim == 2:
        return b.layer(_linear(other.T, None), op, one)
    operands = [value if isinstance(value, fx.Node) else b.parameter(value, op) for value in (one, other)]
    return b.call(torch.matmul, *operands)


def _linear(weight: np.ndarray, bias: np.ndarray | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    _fill(linear, weight, bias)
    return linear


def _fill(module: nn.Conv2d | nn.Linear, weight: np.ndarray, bias: np.ndarray | None) -> None:
    module.weight = nn.Parameter(_float(weight))
    if bias is not None:
        module.bias = nn.Parameter(_float(bias))


def _batch_norm(b: Builder, op: Op) -> fx.Node:
    scale, shift, mean, var = (_float(op.constant(i)) for i in range(1, 5))
    if op.attributes.get("training_mode", 0):
        raise UnsupportedOnnx(
            f"BatchNormalization of node {op.label} is in training mode: export the network in eval mode"
        )
    kind = nn.BatchNorm2d if len(b.shape(op.tensor())) == 4 else nn.BatchNorm1d
    norm = kind(len(scale), eps=op.attributes.get("epsilon", 1e-5))
    norm.load_state_dict({"weight": scale, "bias": shift, "running_mean": mean, "running_var": var}, strict=False)
    return b.layer(norm, op, op.tensor())


def _layer_norm(b: Builder, op: Op) -> fx.Node:
    shape, axis = b.shape(op.tensor()), op.attributes.get("axis", -1)
    sizes = shape[axis % len(shape) :]
    scale, shift = op.constant(1), op.constant(2)
    norm = nn.LayerNorm(sizes, eps=op.attributes.get("epsilon", 1e-5), bias=shift is not None)
    norm.weight = nn.Parameter(_float(np.broadcast_to(scale, sizes)))
    if shift is not None:
        norm.bias = nn.Parameter(_float(np.broadcast_to(shift, sizes)))
    return b.layer(norm, op, op.tensor())


def _prelu(b: Builder, op: Op) -> fx.Node:
    slope, shape = op.constant(1), b.shape(op.tensor())
    if slope.size not in (1, shape[1]):
        raise UnsupportedOnnx(f"PRelu of node {op.label} has a slope that differs inside a channel")
    prelu = nn.PReLU(slope.size)
    prelu.weight = nn.Parameter(_float(slope.reshape(-1)))
    return b.layer(prelu, op, op.tensor())


WEIGHTED: dict[str, Callable[[Builder, Op], Any]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "PRelu": _prelu,
}
