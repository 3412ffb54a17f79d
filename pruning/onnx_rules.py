"""One rule for each ONNX operator that depends on the images: what it becomes in a traced network."""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from pruning.onnx_builder import Builder, Op, UnsupportedOnnx
from pruning.onnx_pools import average_pool, max_pool
from pruning.onnx_weighted import WEIGHTED, absorbed_affine, linear_bias, tensor_of

Rule = Callable[[Builder, Op], Any]


def _activation(make: Callable[[Op], nn.Module]) -> Rule:
    return lambda b, op: b.layer(make(op), op, op.tensor())


def _elementwise(function: Any) -> Rule:
    return lambda b, op: b.call(function, op.tensor())


def _clip(b: Builder, op: Op) -> fx.Node:
    low, high = (op.attributes.get(name, _scalar(op.constant(i))) for name, i in (("min", 1), ("max", 2)))
    if (low, high) == (0, 6):
        return b.layer(nn.ReLU6(), op, op.tensor())
    if low == 0 and (high is None or high >= np.finfo(np.float32).max):
        return b.layer(nn.ReLU(), op, op.tensor())
    return b.layer(nn.Hardtanh(-np.inf if low is None else low, np.inf if high is None else high), op, op.tensor())


def _hard_sigmoid(b: Builder, op: Op) -> fx.Node:
    alpha, beta = op.attributes.get("alpha", 0.2), op.attributes.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-4 and beta == 0.5:
        return b.layer(nn.Hardsigmoid(), op, op.tensor())
    return b.layer(nn.Hardtanh(0.0, 1.0), op, b.call(operator.add, b.call(operator.mul, op.tensor(), alpha), beta))


def _softmax(kind: type[nn.Softmax] | type[nn.LogSoftmax]) -> Rule:
    def rule(b: Builder, op: Op) -> fx.Node:
        rank = len(b.shape(op.tensor()))
        axis = op.attributes.get("axis", -1 if b.opset >= 13 else 1) % rank
        if b.opset < 13 and axis != rank - 1:
            raise UnsupportedOnnx(f"{op.kind} of node {op.label} runs over several axes: export with opset 13 or newer")
        return b.layer(kind(axis), op, op.tensor())

    return rule


def _arithmetic(function: Any) -> Rule:
    """Sums and products; a constant joins the layer before it, becomes a number, a per-channel map or a parameter."""

    def rule(b: Builder, op: Op) -> fx.Node:
        one, other = op.inputs
        if isinstance(one, fx.Node) and isinstance(other, fx.Node):
            return _gated(b, op, one, other) if function is operator.mul else b.call(function, one, other)
        x, constant = (one, other) if isinstance(one, fx.Node) else (other, one)
        flipped = x is other
        if constant.size == 1 and constant.ndim <= len(b.shape(x)):
            value = float(constant.reshape(-1)[0])
            return (
                b.call(function, value, x)
                if flipped and function in (operator.sub, operator.truediv)
                else b.call(function, x, value)
            )
        joined = linear_bias(b, op, x, constant) if function is operator.add else None
        joined = joined or absorbed_affine(b, op, x, constant, function, flipped)
        if joined is not None:
            return joined
        parameter = b.parameter(constant, op)
        return b.call(function, parameter, x) if flipped else b.call(function, x, parameter)

    return rule


def _gated(b: Builder, op: Op, one: fx.Node, other: fx.Node) -> fx.Node:
    """A product of two tensors; x * sigmoid(x) and x * hardsigmoid(x) have names of their own."""
    for x, gate in ((one, other), (other, one)):
        if gate.op == "call_module" and gate.args[0] is x:
            module = b.module(gate)
            if isinstance(module, nn.Sigmoid | nn.Hardsigmoid):
                return b.layer(nn.SiLU() if isinstance(module, nn.Sigmoid) else nn.Hardswish(), op, x)
    return b.call(operator.mul, one, other)


def _concat(b: Builder, op: Op) -> fx.Node:
    parts = [value if isinstance(value, fx.Node) else _repeated(b, op, value) for value in op.inputs]
    return b.call(torch.cat, tuple(parts), op.attributes["axis"])


def _repeated(b: Builder, op: Op, constant: np.ndarray) -> fx.Node:
    """A constant that is joined to a tensor; it stands there once for each image, and is kept once."""
    if len(constant) == b.batch and np.array_equal(constant, np.repeat(constant[:1], b.batch, axis=0)):
        return b.call(torch.Tensor.expand, b.parameter(constant[:1], op), b.size(), *constant.shape[1:])
    raise UnsupportedOnnx(f"Concat of node {op.label} joins a constant that differs from image to image")


def _expand(b: Builder, op: Op) -> fx.Node:
    source = op.inputs[0] if isinstance(op.inputs[0], fx.Node) else b.parameter(op.inputs[0], op)
    shape = np.broadcast_shapes(b.shape(source), tuple(int(v) for v in op.constant(1)))
    return b.call(torch.Tensor.expand, source, b.size() if shape[0] == b.batch else shape[0], *shape[1:])


def _reshape(b: Builder, op: Op) -> fx.Node:
    before = b.shape(op.tensor())
    sizes = [
        before[i] if size == 0 and not op.attributes.get("allowzero", 0) else int(size)
        for i, size in enumerate(op.constant(1))
    ]
    if sizes.count(-1) == 1:
        rest = int(np.prod([s for s in sizes if s != -1]))
        sizes[sizes.index(-1)] = int(np.prod(before)) // max(1, rest)
    return b.reshape(op.tensor(), tuple(sizes))


def _flatten(b: Builder, op: Op) -> fx.Node:
    axis = op.attributes.get("axis", 1)
    if axis == 1:
        return b.call(torch.flatten, op.tensor(), 1)
    shape = b.shape(op.tensor())
    axis %= len(shape) + 1
    return b.reshape(op.tensor(), (int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))))


def _squeeze(b: Builder, op: Op) -> fx.Node:
    shape = b.shape(op.tensor())
    axes = op.ints("axes", 1, [i for i, size in enumerate(shape) if size == 1 and i > 0]) or []
    return b.call(torch.squeeze, op.tensor(), tuple(axis % len(shape) for axis in axes))


def _unsqueeze(b: Builder, op: Op) -> fx.Node:
    axes = op.ints("axes", 1) or []
    x = op.tensor()
    rank = len(b.shape(x)) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = b.call(torch.unsqueeze, x, axis)
    return x


def _transpose(b: Builder, op: Op) -> fx.Node:
    rank = len(b.shape(op.tensor()))
    return b.call(torch.permute, op.tensor(), tuple(op.ints("perm") or range(rank - 1, -1, -1)))


def _split(b: Builder, op: Op) -> list[fx.Node]:
    axis = op.attributes.get("axis", 0)
    size = b.shape(op.tensor())[axis]
    even = -(-size // op.num_outputs)
    sizes = op.ints("split", 1) or [min(even, size - i * even) for i in range(op.num_outputs)]
    parts = b.call(torch.split, op.tensor(), tuple(sizes), axis)
    return [b.call(operator.getitem, parts, i) for i in range(len(sizes))]


def _slice(b: Builder, op: Op) -> fx.Node:
    starts, ends = op.ints("starts", 1) or [], op.ints("ends", 2) or []
    rank = len(b.shape(op.tensor()))
    axes = op.ints("axes", 3, list(range(len(starts)))) or []
    steps = op.ints("steps", 4, [1] * len(starts)) or []
    if any(step < 1 for step in steps) or 0 in [axis % rank for axis in axes]:
        raise UnsupportedOnnx(f"Slice of node {op.label} runs backwards or cuts the batch")
    parts = [slice(None)] * rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        parts[axis % rank] = slice(start, end, step)
    return b.call(operator.getitem, op.tensor(), tuple(parts))


def _gather(b: Builder, op: Op) -> fx.Node:
    index, rank = op.constant(1), len(b.shape(op.tensor()))
    axis = op.attributes.get("axis", 0) % rank
    if index.ndim > 1 or axis == 0:
        raise UnsupportedOnnx(f"Gather of node {op.label} picks images, or has an index of several axes")
    size = b.shape(op.tensor())[axis]
    if index.ndim == 0:
        return b.call(operator.getitem, op.tensor(), (*[slice(None)] * axis, int(index) % size))
    return b.select(op.tensor(), axis, torch.from_numpy(np.array(index)).long() % size, op)


def _shape(b: Builder, op: Op) -> np.ndarray:
    return np.array(
        b.shape(op.tensor())[op.attributes.get("start", 0) : op.attributes.get("end", None)], dtype=np.int64
    )


def _reduce(function: Any, b: Builder, op: Op) -> fx.Node:
    axes, keepdims = op.ints("axes", 1), bool(op.attributes.get("keepdims", 1))
    rank = len(b.shape(op.tensor()))
    dims = tuple(axis % rank for axis in axes or ())
    if not dims or 0 in dims:
        raise UnsupportedOnnx(f"{op.kind} of node {op.label} runs over the batch")
    return b.call(function, op.tensor(), dims, keepdims)


def _pad(b: Builder, op: Op) -> fx.Node:
    pads, mode = op.ints("pads", 1) or [], op.attributes.get("mode", b"constant").decode()
    axes, rank = op.ints("axes", 3), len(b.shape(op.tensor()))
    if (
        mode not in ("constant", "reflect", "edge")
        or (axes is not None and axes != list(range(rank)))
        or pads[0]
        or pads[rank]
    ):
        raise UnsupportedOnnx(f"Pad of node {op.label} pads the batch, names axes or has mode {mode}")
    value = op.attributes.get("value", _scalar(op.constant(2)) or 0.0)
    pairs = [side for axis in range(rank - 1, 0, -1) for side in (pads[axis], pads[rank + axis])]
    while len(pairs) > 2 and pairs[-2:] == [0, 0]:
        pairs = pairs[:-2]
    torch_mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}[mode]
    return b.call(functional.pad, op.tensor(), tuple(pairs), torch_mode, value if mode == "constant" else None)


def _cast(b: Builder, op: Op) -> fx.Node:
    if op.attributes["to"] not in (1, 10, 11, 16):
        raise UnsupportedOnnx(f"Cast of node {op.label} leaves floating point")
    return op.tensor()


def _pow(b: Builder, op: Op) -> fx.Node:
    return b.call(torch.pow, op.tensor(), _scalar(op.constant(1)))


def _scalar(value: Any) -> float | None:
    return None if value is None else float(np.asarray(value).reshape(-1)[0])


RULES: dict[str, Rule] = {
    **WEIGHTED,
    "Relu": _activation(lambda op: nn.ReLU()),
    "LeakyRelu": _activation(lambda op: nn.LeakyReLU(op.attributes.get("alpha", 0.01))),
    "Elu": _activation(lambda op: nn.ELU(op.attributes.get("alpha", 1.0))),
    "Sigmoid": _activation(lambda op: nn.Sigmoid()),
    "Tanh": _activation(lambda op: nn.Tanh()),
    "Softplus": _activation(lambda op: nn.Softplus()),
    "Mish": _activation(lambda op: nn.Mish()),
    "HardSwish": _activation(lambda op: nn.Hardswish()),
    "Gelu": _activation(lambda op: nn.GELU(op.attributes.get("approximate", b"none").decode())),
    "Dropout": _activation(lambda op: nn.Dropout(op.attributes.get("ratio", 0.5))),
    "GlobalAveragePool": _activation(lambda op: nn.AdaptiveAvgPool2d(1)),
    "GlobalMaxPool": _activation(lambda op: nn.AdaptiveMaxPool2d(1)),
    "Softmax": _softmax(nn.Softmax),
    "LogSoftmax": _softmax(nn.LogSoftmax),
    "HardSigmoid": _hard_sigmoid,
    "Clip": _clip,
    "Add": _arithmetic(operator.add),
    "Sub": _arithmetic(operator.sub),
    "Mul": _arithmetic(operator.mul),
    "Div": _arithmetic(operator.truediv),
    "Pow": _pow,
    "Sqrt": _elementwise(torch.sqrt),
    "Erf": _elementwise(torch.erf),
    "Exp": _elementwise(torch.exp),
    "Abs": _elementwise(torch.abs),
    "Neg": _elementwise(torch.neg),
    "Reciprocal": _elementwise(torch.reciprocal),
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "Concat": _concat,
    "Expand": _expand,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Shape": _shape,
    "ReduceMean": partial(_reduce, torch.mean),
    "ReduceSum": partial(_reduce, torch.sum),
    "ReduceMax": partial(_reduce, torch.amax),
    "Pad": _pad,
    "Cast": _cast,
    "Identity": lambda b, op: tensor_of(op),
}
