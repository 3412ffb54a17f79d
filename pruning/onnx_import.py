"""Reads an ONNX classification network into a trainable `Network`.

The file is untrusted: nothing in it is executed, no path in it is followed.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships without types
from onnx import TensorProto, numpy_helper
from torch import fx, nn

from pruning.network import Network
from pruning.onnx_builder import Builder, Op, UnsupportedOnnx
from pruning.onnx_constants import foldable, folded
from pruning.onnx_patterns import gelus
from pruning.onnx_rules import RULES
from pruning.shapes import values_at
from pruning.trace import finish

MIN_OPSET = 9
MAX_SIDE = 4096
MAX_CHANNELS = 256
MAX_BATCH = 4096
_MALFORMED = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What reading a file that contradicts itself may raise."""
_DOMAINS = ("", "ai.onnx")


def from_onnx(path: Path) -> Network:
    """Return the network in an ONNX file, its weights as parameters that can be trained; outputs equal ONNX Runtime's.

    The input must be one float32 map [batch, C, H, W] with fixed C, H, W; any batch size runs afterwards. A Softmax or
    LogSoftmax that ends the network is dropped, so that its output is logits.

    Raises
    ------
    UnsupportedOnnx
        The file is not ONNX, keeps weights in other files, has another input or output, or holds an operator without a
        rule (named with its node).
    """
    try:
        return _imported(_loaded(path))
    except UnsupportedOnnx:
        raise
    except _MALFORMED as error:
        raise UnsupportedOnnx(f"the ONNX file is damaged: {error}") from error


def _imported(model: onnx.ModelProto) -> Network:
    graph = model.graph
    shape, batch = _input_shape(graph)
    builder = Builder(batch=batch, input_shape=shape, uses=_uses(graph), opset=_opset(model))
    for tensor in graph.initializer:
        builder.values[tensor.name] = np.asarray(numpy_helper.to_array(tensor))
    builder.values[_inputs(graph)[0].name] = builder.image
    _convert(builder, list(graph.node), dropped={id(node) for node in _final_softmax(graph)})
    network = _finished(builder, graph.output[0].name)
    rows = values_at(network.module, (3, *shape))[
        next(n for n in reversed(network.module.graph.nodes) if n.op == "output")
    ]
    if tuple(rows.shape) != (3, network.num_outputs):
        raise UnsupportedOnnx("the network is written for one batch size: export it with a dynamic batch axis")
    return network


def _loaded(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(str(path), load_external_data=False)
        _refuse_external(model)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, ValueError) as error:
        if isinstance(error, UnsupportedOnnx):
            raise
        raise UnsupportedOnnx(f"not a valid ONNX file: {error}") from error
    if model.functions or model.graph.sparse_initializer or model.training_info:
        raise UnsupportedOnnx(
            "model-local functions, sparse weights and training graphs are not supported: export for inference"
        )
    if _opset(model) < MIN_OPSET:
        raise UnsupportedOnnx(f"opset {_opset(model)} is too old: export with opset {MIN_OPSET} or newer")
    if len(_inputs(model.graph)) != 1 or len(model.graph.output) != 1:
        raise UnsupportedOnnx("the network must have one input (images) and one output (logits)")
    return model


def _refuse_external(model: onnx.ModelProto) -> None:
    """Refuse weights that lie in other files, wherever the file mentions them."""
    tensors = list(model.graph.initializer)
    tensors += [attribute.t for node in model.graph.node for attribute in node.attribute if attribute.HasField("t")]
    for tensor in tensors:
        if tensor.data_location == TensorProto.EXTERNAL or len(tensor.external_data):
            raise UnsupportedOnnx(
                f"weight {tensor.name!r} lies in another file: save the model as one file without external data"
            )


def _opset(model: onnx.ModelProto) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain in _DOMAINS), default=0)


def _inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def _input_shape(graph: onnx.GraphProto) -> tuple[tuple[int, int, int], int]:
    """Return (channels, height, width) and the batch size the file is read at: its own, or 2 where that is free."""
    kind = _inputs(graph)[0].type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in kind.shape.dim]
    if kind.elem_type != TensorProto.FLOAT:
        raise UnsupportedOnnx("the input must be float32")
    if len(dims) != 4 or min(dims[1:]) < 1:
        raise UnsupportedOnnx(
            f"the input must be [batch, channels, height, width] with fixed sizes, it is {dims} (0: free)"
        )
    batch, channels, height, width = dims
    if channels > MAX_CHANNELS or max(height, width) > MAX_SIDE or batch > MAX_BATCH:
        raise UnsupportedOnnx(
            f"an input of {dims} is too large: at most {MAX_CHANNELS} channels, {MAX_SIDE} pixels a side"
        )
    return (channels, height, width), batch or 2


def _uses(graph: onnx.GraphProto) -> Counter[str]:
    return Counter([name for node in graph.node for name in node.input] + [value.name for value in graph.output])


def _final_softmax(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    outputs = {value.name for value in graph.output}
    return [
        n
        for n in graph.node
        if n.op_type in ("Softmax", "LogSoftmax") and set(n.output) & outputs and _uses(graph)[n.output[0]] == 1
    ]


def _convert(builder: Builder, nodes: list[onnx.NodeProto], dropped: set[int]) -> None:
    patterns = gelus(nodes, builder)
    for node in nodes:
        op = Op.of(node, builder)
        if node.domain not in _DOMAINS:
            raise UnsupportedOnnx(f"operator {node.domain}.{node.op_type} of node {op.label} is not a standard one")
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise UnsupportedOnnx(f"operator {node.op_type} of node {op.label} has a graph of its own (control flow)")
        if id(node) in patterns:
            pattern = patterns[id(node)]
            result: Any = builder.layer(nn.GELU(), op, builder.values[pattern]) if pattern else None
        elif id(node) in dropped:
            result = op.inputs[0]
        elif foldable(op):
            result = folded(op, node, builder.opset)
        elif node.op_type not in RULES:
            raise UnsupportedOnnx(f"operator {node.op_type} of node {op.label} is not supported")
        else:
            result = _applied(builder, op)
        results = result if isinstance(result, list | tuple) else [result]
        builder.values.update(zip(node.output, results, strict=False))


def _applied(builder: Builder, op: Op) -> Any:
    try:
        return RULES[op.kind](builder, op)
    except UnsupportedOnnx:
        raise
    except _MALFORMED as error:
        raise UnsupportedOnnx(f"operator {op.kind} of node {op.label} cannot be converted: {error}") from error


def _finished(builder: Builder, output: str) -> Network:
    result = builder.values.get(output)
    if not isinstance(result, fx.Node):
        raise UnsupportedOnnx("the output does not depend on the images")
    shape = builder.shape(result)
    if len(shape) > 2 and all(size == 1 for size in shape[2:]):
        result = builder.call(torch.flatten, result, 1)
    builder.graph.output(result)
    try:
        return finish(fx.GraphModule(builder.root, builder.graph, "ImportedOnnx"), builder.input_shape)
    except ValueError as error:
        raise UnsupportedOnnx(str(error)) from error
