"""Constant arithmetic inside ONNX files: the shape calculations exporters leave behind."""

import math

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from pruning.onnx_builder import Op, UnsupportedOnnx

MAX_CONSTANT = 1 << 24
"""No computed constant may have more elements."""
_OPERATORS = {
    "Abs", "Add", "And", "Cast", "Ceil", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand",
    "Flatten", "Floor", "Gather", "Greater", "Identity", "Less", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or",
    "Pow", "Range", "Reciprocal", "ReduceProd", "Reshape", "Size", "Slice", "Split", "Sqrt", "Squeeze", "Sub",
    "Tile", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip


def foldable(op: Op) -> bool:
    """Return whether all inputs are constants and the operator is one that may be computed while reading."""
    return op.kind in _OPERATORS and all(value is None or isinstance(value, np.ndarray) for value in op.inputs)


def folded(op: Op, node: onnx.NodeProto, opset: int) -> list[np.ndarray]:
    """Return the operator's results; raises UnsupportedOnnx for results too large and for failing calculations."""
    if _size(op) > MAX_CONSTANT:
        raise UnsupportedOnnx(f"the constant that operator {op.kind} of node {op.label} makes is too large")
    feeds = {name: value for name, value in zip(node.input, op.inputs, strict=True) if name}
    inputs = [onnx.ValueInfoProto(name=name) for name in feeds]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "constant", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, feeds)]
    except Exception as error:  # the evaluator runs NumPy on whatever the file says, and raises what NumPy raises
        raise UnsupportedOnnx(f"operator {op.kind} of node {op.label} cannot be computed: {error}") from error


def _size(op: Op) -> int:
    """Return an upper bound of the elements of the result."""
    arrays = [np.asarray(value) for value in op.inputs if value is not None]
    match op.kind:
        case "ConstantOfShape":
            return math.prod(max(0, int(v)) for v in arrays[0].reshape(-1))
        case "Expand":
            return max(1, arrays[0].size) * math.prod(max(1, int(v)) for v in arrays[1].reshape(-1))
        case "Tile":
            return arrays[0].size * math.prod(max(1, int(v)) for v in arrays[1].reshape(-1))
        case "Range":
            start, limit, delta = (float(a.reshape(-1)[0]) for a in arrays)
            return math.ceil(abs((limit - start) / delta)) if delta else MAX_CONSTANT + 1
        case "Gather":
            return arrays[0].size * max(1, arrays[1].size)
        case (
            "Add"
            | "Sub"
            | "Mul"
            | "Div"
            | "Equal"
            | "Where"
            | "Pow"
            | "Mod"
            | "And"
            | "Or"
            | "Less"
            | "Greater"
            | "Max"
            | "Min"
        ):
            return math.prod(np.broadcast_shapes(*(a.shape for a in arrays)))
    return sum(a.size for a in arrays)
