"""Cuts one operator out of a graph that ONNX Runtime has optimised, in the layout it has inside a network.

ONNX Runtime's CPU kernels work on blocked tensors (channels in blocks of 8 or 16). A one-convolution model therefore
spends part of its time in reordering its input and output, which the same convolution inside a network does not; and
channel counts that the blocked kernels refuse cost reorders that a bare model hides. So the operator is optimised
between two neighbours (`onnx_ops.model_in_context`), the runtime writes down what it made of it, and the neighbours
are cut off: what stays is the operator and the layout changes it causes. A change from blocked to plain belongs to
the operator that needs plain input; a change from plain to blocked belongs to the operator that delivers plain
output. Nothing about block sizes is assumed: the runtime's own optimised graph is read.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime
from onnx import TensorProto, helper

from lut.measure.onnx_graph import untyped
from lut.measure.onnx_ops import CONSUMER, model_in_context, on_vectors, operand_shapes
from lut.signature import OpSignature

SHARED_WEIGHT_BYTES = 4096
"""Constants smaller than this are shared by all copies; of larger ones each has its own."""


@dataclass(frozen=True, kw_only=True)
class IsolatedOperator:
    """What the runtime executes for one operator: optimised nodes between boundary values."""

    graph: onnx.GraphProto
    """Nodes, constants, and inputs with the shapes they have at run time; one output."""
    opsets: tuple[onnx.OperatorSetIdProto, ...]
    ir_version: int
    weight_bytes: int
    """Bytes of the constants that each copy has for itself."""


def isolate(
    signature: OpSignature, c_in: int, c_out: int, batch: int, options: onnxruntime.SessionOptions
) -> IsolatedOperator:
    """Return the operator as ONNX Runtime runs it between two neighbours, under the optimisations of `options`.

    Raises ValueError for a signature or channel counts that describe no operator.
    """
    model = optimised(model_in_context(signature, c_in, c_out, batch), options)
    graph = model.graph
    if on_vectors(signature):
        nodes, inputs, output = list(graph.node), [_shaped(v.name, _dims(v)) for v in graph.input], graph.output[0].name
    else:
        inputs = _boundary_inputs(graph, operand_shapes(signature, c_in, c_out), batch)
        output = _boundary_output(graph)
        nodes = _between(graph, {value.name for value in inputs}, output)
    used = {name for node in nodes for name in node.input}
    constants = [tensor for tensor in graph.initializer if tensor.name in used]
    cut = helper.make_graph(nodes, "isolated", inputs, [untyped(output)], constants)
    weight_bytes = sum(_own_bytes(tensor) for tensor in constants)
    return IsolatedOperator(
        graph=cut, opsets=tuple(model.opset_import), ir_version=model.ir_version, weight_bytes=weight_bytes
    )


def optimised(model: onnx.ModelProto, options: onnxruntime.SessionOptions) -> onnx.ModelProto:
    """Return the graph that ONNX Runtime makes of `model`; `options.optimized_model_filepath` is overwritten."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(path)


def repeated(operator: IsolatedOperator, copies: int) -> onnx.ModelProto:
    """Return a model that runs `copies` of the operator on the same input, each with its own weights.

    They lie in the model, as a network's do: what the runtime allocates for them is up to a tenth slower to read than a file
    that is mapped, and so it is in the network.
    """
    source = operator.graph
    own = [tensor for tensor in source.initializer if _own_bytes(tensor)]
    graph = onnx.GraphProto(name="repeated")
    graph.input.extend(source.input)
    graph.initializer.extend(tensor for tensor in source.initializer if not _own_bytes(tensor))
    outside = {value.name for value in source.input} | {tensor.name for tensor in graph.initializer} | {""}
    for copy in range(copies):
        for tensor in own:
            clone = graph.initializer.add()
            clone.CopyFrom(tensor)
            clone.name = f"{tensor.name}/{copy}"
            # The runtime packs equal weights once.
            clone.raw_data = tensor.raw_data[64 * copy :] + tensor.raw_data[: 64 * copy]
        for position, node in enumerate(source.node):
            clone = graph.node.add()
            clone.CopyFrom(node)
            clone.name = f"{position}/{copy}"
            for names in (clone.input, clone.output):
                names[:] = [name if name in outside else f"{name}/{copy}" for name in names]
        graph.output.append(untyped(f"{source.output[0].name}/{copy}"))
    return helper.make_model(graph, opset_imports=operator.opsets, ir_version=operator.ir_version)


def _boundary_inputs(graph: onnx.GraphProto, shapes: list[tuple[int, ...]], batch: int) -> list[onnx.ValueInfoProto]:
    """Return the values at which the producers hand over, with their run-time shapes (channels padded to the
    runtime's blocks).
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    values = []
    for index, shape in enumerate(shapes):
        producer = next((node for node in graph.node if node.input[0] == f"source{index}"), None)
        if producer is None:
            values.append(_shaped(f"produced{index}", (batch, *shape)))
        else:
            channels = constants[producer.input[1]].dims[0]
            values.append(_shaped(producer.output[0], (batch, channels, *shape[1:])))
    return values


def _boundary_output(graph: onnx.GraphProto) -> str:
    """Return the value the consumer reads, before a change to plain layout that only the consumer asks for."""
    producers = {name: node for node in graph.node for name in node.output}
    consumer = producers[CONSUMER]
    if consumer.op_type == "ReorderOutput":
        consumer = producers[consumer.input[0]]
    value = str(consumer.input[0])
    before = producers[value]
    return str(before.input[0]) if before.op_type == "ReorderOutput" else value


def _between(graph: onnx.GraphProto, inputs: set[str], output: str) -> list[onnx.NodeProto]:
    """Return the nodes that `output` needs beyond `inputs`, in execution order."""
    wanted, nodes = {output}, []
    for node in reversed(graph.node):
        if wanted & set(node.output) and not inputs & set(node.output):
            nodes.append(node)
            wanted |= set(node.input) - inputs
    return nodes[::-1]


def _own_bytes(tensor: onnx.TensorProto) -> int:
    size = len(tensor.raw_data)
    return size if tensor.data_type == TensorProto.FLOAT and size >= SHARED_WEIGHT_BYTES else 0


def _shaped(name: str, dims: tuple[int, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)


def _dims(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
