"""ONNX files of a few operators, written node by node."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.builders import SHAPE

RNG = np.random.default_rng(0)


def random(*shape: int) -> np.ndarray:
    """Return normal random numbers, float32."""
    return RNG.standard_normal(shape).astype(np.float32)


def node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    """Return one operator; its node is called after its output."""
    return helper.make_node(kind, list(inputs), [output], name=f"node_{output}", **attributes)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    *,
    batch: int | str = "n",
    opset: int = 17,
    **change: Any,
) -> Path:
    """Write a model x [batch, 3, 16, 16] -> y."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, change.get("shape", [batch, *SHAPE]))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", "outputs"])
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "test", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path)
    return path


HEAD = {"head.weight": random(4, 5), "head.bias": random(4)}
POOLED = [
    node("GlobalAveragePool", ["map"], "pooled"),
    node("Flatten", ["pooled"], "flat"),
    node("Gemm", ["flat", "head.weight", "head.bias"], "y", transB=1),
]
CONV = {"conv.weight": random(5, 3, 3, 3), "conv.bias": random(5)}
