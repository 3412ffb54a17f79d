"""Nodes and weights of an ONNX graph under construction."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor


class Writer:
    """Collects nodes and weights; every method that adds a node returns the name of its value."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._known: dict[str, str] = {}
        self._values: set[str] = set()

    def node(self, op_type: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Add one node; its value is called `name`, or `name` with a number where that is taken."""
        name = self._free(name)
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, **attributes))
        return name

    def split(self, x: str, sizes: Sequence[int], axis: int, name: str) -> list[str]:
        """Add a Split into `sizes` along `axis`."""
        names = [self._free(f"{name}_{i}") for i in range(len(sizes))]
        self.nodes.append(helper.make_node("Split", [x, self.ints(sizes)], names, name=name, axis=axis))
        return names

    def reshape(self, x: str, shape: Sequence[int], name: str) -> str:
        """Add a Reshape to a constant shape."""
        return self.node("Reshape", [x, self.ints(shape)], name)

    def gelu(self, x: str, approximate: str, name: str) -> str:
        """Add a GELU: the exact one spelled with Erf, the form every runtime knows how to fuse."""
        if approximate != "none":
            return self.node("Gelu", [x], name, approximate=approximate)
        scaled = self.node("Div", [x, self.scalar(2**0.5)], f"{name}_scaled")
        shifted = self.node("Add", [self.node("Erf", [scaled], f"{name}_erf"), self.scalar(1.0)], f"{name}_shifted")
        return self.node("Mul", [self.node("Mul", [x, shifted], f"{name}_gated"), self.scalar(0.5)], name)

    def weight(self, tensor: Tensor, name: str) -> str:
        """Add a float32 constant; a name that is taken gets a number."""
        array = tensor.detach().cpu().float().contiguous().numpy()
        name = self._free(name)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, values: Sequence[int]) -> str:
        """Return the name of an int64 constant [len(values)]; equal constants are stored once."""
        return self._constant(TensorProto.INT64, [int(v) for v in values], (len(values),))

    def scalar(self, value: float) -> str:
        """Return the name of a float32 constant []; equal constants are stored once."""
        return self._constant(TensorProto.FLOAT, [float(np.float32(value))], ())

    def _constant(self, kind: int, values: list[Any], shape: tuple[int, ...]) -> str:
        key = f"{kind}:{shape}:{values}"
        if key not in self._known:
            self._known[key] = self._free(f"constant_{len(self._known)}")
            self.weights.append(helper.make_tensor(self._known[key], kind, shape, values))
        return self._known[key]

    def _free(self, name: str) -> str:
        wanted, number = name, 1
        while name in self._values:
            name, number = f"{wanted}.{number}", number + 1
        self._values.add(name)
        return name
