"""An ONNX graph under construction."""

from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import TensorProto, helper

from lut.measure.arrays import random_array

OPSET = 20
IR_VERSION = 10


@dataclass
class Graph:
    """Nodes, weights and inputs of a graph under construction; every method returns the name of a value."""

    batch: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)

    def input(self, name: str, shape: tuple[int, ...]) -> str:
        """Add an input of `shape`, the batch before it."""
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, (self.batch, *shape)))
        return name

    def weight(self, shape: tuple[int, ...], fan_in: int = 1) -> str:
        """Add a random weight; `fan_in` keeps its products near one."""
        name = f"w{len(self.weights)}"
        values = random_array(shape, offset=7919 * len(self.weights), scale=fan_in**-0.5)
        self.weights.append(helper.make_tensor(name, TensorProto.FLOAT, shape, values.tobytes(), raw=True))
        return name

    def floats(self, values: list[float]) -> str:
        """Add a constant vector of floats."""
        name = f"w{len(self.weights)}"
        self.weights.append(helper.make_tensor(name, TensorProto.FLOAT, (len(values),), values))
        return name

    def scalar(self, value: float) -> str:
        """Add a constant float."""
        name = f"w{len(self.weights)}"
        self.weights.append(helper.make_tensor(name, TensorProto.FLOAT, (), [value]))
        return name

    def ints(self, values: list[int]) -> str:
        """Add a constant vector of int64."""
        name = f"w{len(self.weights)}"
        self.weights.append(helper.make_tensor(name, TensorProto.INT64, (len(values),), values))
        return name

    def node(self, op_type: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        """Add a node with one output."""
        output = output or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [output], **attributes))
        return output

    def model(self, *outputs: str) -> onnx.ModelProto:
        """Return the graph as a model with these outputs, whose shapes the runtime works out."""
        graph = helper.make_graph(
            self.nodes, "operator", self.inputs, [untyped(name) for name in outputs], self.weights
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def untyped(name: str) -> onnx.ValueInfoProto:
    """Return a float value whose shape the runtime works out."""
    value = helper.make_empty_tensor_value_info(name)
    value.type.tensor_type.elem_type = TensorProto.FLOAT
    return value
