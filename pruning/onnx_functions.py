"""ONNX spellings of the functions in a traced graph: arithmetic, concatenation, subscripts, reductions, padding."""

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from pruning.network import Network
from pruning.nodes import arguments, source
from pruning.onnx_writer import Writer
from pruning.shapes import values_at

_BINARY: dict[Any, str] = {
    operator.add: "Add",
    operator.sub: "Sub",
    operator.mul: "Mul",
    operator.truediv: "Div",
    torch.matmul: "MatMul",
}
_RESHAPES = (torch.reshape, torch.flatten, torch.squeeze, torch.unsqueeze)
_SPLITS = (torch.chunk, torch.split, torch.tensor_split, torch.unbind)
_REDUCTIONS: dict[Any, str] = {
    torch.mean: "ReduceMean",
    torch.sum: "ReduceSum",
    torch.amax: "ReduceMax",
    torch.amin: "ReduceMin",
}


class NoRule(Exception):
    """The exporter has no rule for a node."""


class Values:
    """What the nodes of a network are in an ONNX graph: names for tensors, numbers for sizes, tuples for several."""

    def __init__(self, network: Network, batch: int) -> None:
        self.module = network.module
        self.out = Writer()
        self.values: dict[fx.Node, Any] = {}
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.parts: dict[fx.Node, list[tuple[int, ...]]] = {}
        for node, value in values_at(network.module, (batch, *network.input_shape)).items():
            if isinstance(value, Tensor):
                self.shapes[node] = tuple(value.shape)
            elif isinstance(value, torch.Size) or not isinstance(value, tuple | list):
                self.values[node] = value
            else:
                self.parts[node] = [tuple(part.shape) for part in value if isinstance(part, Tensor)]

    def arg(self, value: Any) -> Any:
        """Return the value name, number or nested tuple that stands for an argument of a node."""
        return fx.node.map_arg(value, lambda node: self.values[node])

    def tensor(self, value: Any) -> str:
        """Return the value name of a tensor argument; numbers become constants."""
        value = self.arg(value)
        return self.out.scalar(float(value)) if isinstance(value, int | float) else str(value)

    def function(self, node: fx.Node) -> Any:
        """Emit a function call; raises NoRule for one outside the vocabulary."""
        out, target = self.out, node.target
        if target in _BINARY:
            return out.node(_BINARY[target], [self.tensor(a) for a in node.args], node.name)
        if target in _RESHAPES:
            return out.reshape(self.values[source(node)], self.shapes[node], node.name)
        if target is torch.cat:
            given = arguments(node, "tensors", "dim")
            return out.node("Concat", list(self.arg(given["tensors"])), node.name, axis=given.get("dim", 0))
        for rule, targets in _RULES.items():
            if target in targets:
                return rule(self, node)
        raise NoRule(f"{getattr(target, '__name__', target)} `{node.name}`")


def _transpose(known: Values, node: fx.Node) -> str:
    rank = len(known.shapes[node])
    # Axis sizes 2, 3, 4, ... tell where each axis goes.
    sample = torch.empty([i + 2 for i in range(rank)], device="meta")
    function: Any = node.target
    moved = function(sample, *known.arg(node.args[1:]), **node.kwargs)
    return known.out.node("Transpose", [known.values[source(node)]], node.name, perm=[size - 2 for size in moved.shape])


def _expand(known: Values, node: fx.Node) -> str:
    return known.out.node("Expand", [known.values[source(node)], known.out.ints(known.shapes[node])], node.name)


def _clamp(known: Values, node: fx.Node) -> str:
    given = arguments(node, "input", "min", "max")
    bounds = [given.get(name) for name in ("min", "max")]
    names = ["" if bound is None else known.out.scalar(float(bound)) for bound in bounds]
    return known.out.node("Clip", [known.values[source(node)], *names], node.name)


def _reduction(known: Values, node: fx.Node) -> str:
    given = arguments(node, "input", "dim", "keepdim")
    rank, dims = len(known.shapes[source(node)]), given.get("dim")
    axes = [d % rank for d in (range(rank) if dims is None else [dims] if isinstance(dims, int) else dims)]
    x = known.values[source(node)]
    if node.target is torch.mean and rank == 4 and sorted(axes) == [2, 3]:
        pooled = known.out.node("GlobalAveragePool", [x], f"{node.name}_pool")
        return known.out.reshape(pooled, known.shapes[node], node.name)
    keepdims = int(bool(given.get("keepdim", False)))
    return known.out.node(_REDUCTIONS[node.target], [x, known.out.ints(sorted(axes))], node.name, keepdims=keepdims)


def _pad(known: Values, node: fx.Node) -> str:
    given = arguments(node, "input", "pad", "mode", "value")
    if given.get("mode", "constant") != "constant":
        raise NoRule(f"{given['mode']} padding `{node.name}`")
    pads, rank = list(known.arg(given["pad"])), len(known.shapes[node])
    pairs = [(pads[i], pads[i + 1]) for i in range(len(pads) - 2, -1, -2)]
    pairs = [(0, 0)] * (rank - len(pairs)) + pairs
    ends = known.out.ints([before for before, _ in pairs] + [after for _, after in pairs])
    value = known.out.scalar(float(given.get("value") or 0))
    return known.out.node("Pad", [known.values[source(node)], ends, value], node.name)


def _split(known: Values, node: fx.Node) -> tuple[str, ...]:
    unbinds = node.target is torch.unbind
    given = arguments(node, "input", "dim") if unbinds else arguments(node, "input", "sizes", "dim")
    parts, axis = known.parts[node], given.get("dim", 0) % len(known.shapes[source(node)])
    sizes = [1 if unbinds else part[axis] for part in parts]
    names = known.out.split(known.values[source(node)], sizes, axis, node.name)
    if not unbinds:
        return tuple(names)
    return tuple(known.out.reshape(name, part, f"{name}_item") for name, part in zip(names, parts, strict=True))


def _item(known: Values, node: fx.Node) -> Any:
    """Subscripts: of a tuple of tensors, or integers and slices of a tensor."""
    value, index = known.arg(source(node)), known.arg(node.args[1])
    if isinstance(value, tuple | list):
        return value[index]
    parts, sizes = index if isinstance(index, tuple) else (index,), known.shapes[source(node)]
    if not all(isinstance(part, int | slice) for part in parts):
        raise NoRule(f"subscript `{node.name}`")
    ranges = [
        range(*part.indices(size)) if isinstance(part, slice) else range(part % size, part % size + 1)
        for part, size in zip(parts, sizes, strict=False)
    ]
    cut = [(axis, r) for axis, r in enumerate(ranges) if len(r) != sizes[axis]]
    if cut:
        columns = zip(*((r.start, r.stop, axis, r.step) for axis, r in cut), strict=True)
        value = known.out.node("Slice", [value, *(known.out.ints(column) for column in columns)], f"{node.name}_slice")
    drops_axes = any(isinstance(part, int) for part in parts)
    return known.out.reshape(value, known.shapes[node], node.name) if drops_axes else value


_RULES: dict[Any, tuple[Any, ...]] = {
    _transpose: (torch.permute, torch.transpose),
    _expand: ("expand", Tensor.expand),
    _clamp: (torch.clamp,),
    _reduction: tuple(_REDUCTIONS),
    _pad: (functional.pad,),
    _split: _SPLITS,
    _item: (operator.getitem,),
}
