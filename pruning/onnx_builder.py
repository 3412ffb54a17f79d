"""The network under construction while an ONNX file is read: an fx graph whose shapes are known at every step."""

import operator
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pruning.modules import ChannelSelect

MAX_ELEMENTS = 1 << 28
"""No tensor of the network may have more elements."""


class UnsupportedOnnx(ValueError):
    """The ONNX file cannot become a network; the message names the operator and its node, and what to do."""


@dataclass(frozen=True)
class Op:
    """One ONNX node with its inputs resolved."""

    kind: str
    label: str
    """What to call it in messages."""
    name: str
    """An identifier for its module, close to the file's own name for it."""
    inputs: list[Any]
    """`fx.Node` for what depends on the images, arrays for constants, None for what is left out."""
    input_names: list[str]
    attributes: dict[str, Any]
    num_outputs: int

    @classmethod
    def of(cls, node: onnx.NodeProto, builder: "Builder") -> "Op":
        """Resolve a node; raises UnsupportedOnnx for an input that nothing defines."""
        label = repr(node.name or (node.output[0] if node.output else ""))
        for name in node.input:
            if name and name not in builder.values:
                raise UnsupportedOnnx(f"node {label} reads {name!r}, which nothing defines")
        inputs = [builder.values[name] if name else None for name in node.input]
        graphs = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.type not in graphs}
        weights = [name for name in node.input[1:] if name.endswith(".weight")]
        name = weights[0].removesuffix(".weight") if weights else (node.name or f"{node.op_type}_{node.output[0]}")
        return cls(node.op_type, label, _safe(name), inputs, list(node.input), attributes, len(node.output))

    def constant(self, index: int, default: Any = None) -> Any:
        """Return input `index` as an array, `default` where it is left out; refuse one that depends on the images."""
        value = self.inputs[index] if index < len(self.inputs) else None
        if value is None:
            return default
        if not isinstance(value, np.ndarray):
            raise UnsupportedOnnx(f"input {index} of operator {self.kind} of node {self.label} must be constant")
        return value

    def tensor(self, index: int = 0) -> fx.Node:
        """Return input `index`, which must depend on the images; raises UnsupportedOnnx otherwise."""
        value = self.inputs[index] if index < len(self.inputs) else None
        if not isinstance(value, fx.Node):
            raise UnsupportedOnnx(f"input {index} of operator {self.kind} of node {self.label} must not be constant")
        return value

    def ints(self, name: str, index: int | None = None, default: list[int] | None = None) -> list[int] | None:
        """Return integers given as attribute `name` or, in newer operator sets, as input `index`."""
        if name in self.attributes:
            value = self.attributes[name]
            return [int(v) for v in value] if isinstance(value, list | tuple) else [int(value)]
        given = self.constant(index) if index is not None else None
        return default if given is None else [int(v) for v in np.asarray(given).reshape(-1)]


class Builder:
    """Adds nodes to an fx graph and knows every node's shape at the batch size the file is read at."""

    def __init__(self, *, batch: int, input_shape: tuple[int, int, int], uses: Counter[str], opset: int) -> None:
        self.batch, self.input_shape, self.uses, self.opset = batch, input_shape, uses, opset
        self.root, self.graph = nn.Module(), fx.Graph()
        self.values: dict[str, Any] = {}
        self.fakes: dict[fx.Node, Any] = {}
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.image = self.graph.placeholder("images")
        with self.mode:
            self.fakes[self.image] = torch.empty(batch, *input_shape)
        self._names: set[str] = set()
        self._size: fx.Node | None = None

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Return a node's shape, batch included."""
        return tuple(self.fakes[node].shape)

    def call(self, function: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Add a function call."""
        node = self.graph.call_function(function, args, kwargs)
        return self._known(node, function, args, kwargs)

    def layer(self, module: nn.Module, op: Op, x: fx.Node) -> fx.Node:
        """Add `module`, named after `op`, and its call on `x`."""
        name, number = op.name, 1
        while name in self._names:
            name, number = f"{op.name}_{number}", number + 1
        self._names.add(name)
        self.root.add_module(name, module.eval())
        return self._known(self.graph.call_module(name, (x,)), module, (x,), {})

    def module(self, node: fx.Node) -> nn.Module | None:
        """Return the module a node calls, if it calls one."""
        return self.root.get_submodule(str(node.target)) if node.op == "call_module" else None

    def parameter(self, array: np.ndarray, op: Op) -> fx.Node:
        """Add a constant tensor as a trainable parameter (a buffer, for integers) and return the node that reads it."""
        name = f"constant_{len(self._names)}_{op.name}"
        self._names.add(name)
        tensor = torch.from_numpy(np.array(array))
        if tensor.is_floating_point():
            self.root.register_parameter(name, nn.Parameter(tensor.float()))
        else:
            self.root.register_buffer(name, tensor)
        node = self.graph.get_attr(name)
        self.fakes[node] = self.mode.from_tensor(getattr(self.root, name).detach())
        return node

    def size(self) -> fx.Node:
        """Return the node that holds the batch size."""
        if self._size is None:
            with self.graph.inserting_after(self.image):
                shape = self.graph.call_function(getattr, (self.image, "shape"))
            with self.graph.inserting_after(shape):
                self._size = node = self.graph.call_function(operator.getitem, (shape, 0))
            self.fakes[node] = self.batch
        return self._size

    def select(self, x: fx.Node, axis: int, index: Tensor, op: Op) -> fx.Node:
        """Add a selection of positions `index` along `axis`."""
        if axis == 1:
            return self.layer(ChannelSelect(index), op, x)
        return self.call(torch.index_select, x, axis, self.parameter(index.numpy(), op))

    def reshape(self, x: fx.Node, shape: tuple[int, ...]) -> fx.Node:
        """Add a reshape to `shape` as it is at the file's batch size; the first axis follows the batch."""
        return self.call(torch.reshape, x, (-1, *shape[1:]))

    def _known(self, node: fx.Node, function: Any, args: Any, kwargs: Any) -> fx.Node:
        def value(argument: Any) -> Any:
            return fx.node.map_arg(argument, lambda n: self.fakes[n])

        with self.mode, torch.no_grad():
            result = function(*value(args), **value(kwargs))
        for part in result if isinstance(result, tuple | list) else (result,):
            if isinstance(part, Tensor) and part.numel() > MAX_ELEMENTS:
                raise UnsupportedOnnx(f"a tensor of shape {list(part.shape)} is too large")
        self.fakes[node] = result
        return node


def _safe(name: str) -> str:
    """Return an identifier: what fx writes into its generated code must hold nothing else."""
    name = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")[-100:] or "layer"
    name = f"_{name}" if name[0].isdigit() else name
    return f"{name}_" if hasattr(nn.Module, name) or name == "training" else name
