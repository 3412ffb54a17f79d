"""ONNX graphs of one operator, bare (for checking numbers) or between two neighbours (for measuring as inside a
network).

Letters: N = batch, C = channels, H, W = height and width of the input map. Maps are [N, C, H, W]; a signature with
H = W = 1 of kind `linear` or `activation` works on vectors [N, C], a `linear` on a larger map works on [N, H, W, C].
"""

import numpy as np
import onnx

from lut.measure.onnx_graph import Graph
from lut.pattern import Pattern
from lut.request import fan_in_groups, output_size
from lut.signature import KINDS, OpSignature

MAX_IMAGE_CHANNELS = 4
"""A map with no more channels than an image has is taken for the network's own input: it arrives in plain layout."""
NEIGHBOUR_CHANNELS = 64
"""Output channels of the consuming neighbour: enough for any runtime to choose its preferred layout."""
PRODUCED = "produced"
"""Names of the values the neighbours before the operator deliver start with this."""
CONSUMER = "consumer"
"""Name of the value that the neighbour after the operator delivers."""


def bare_model(signature: OpSignature, c_in: int, c_out: int, batch: int) -> onnx.ModelProto:
    """Return the operator with its fused activation alone: inputs `x` (and `z`, the second operand), output `y`.

    Raises ValueError for a signature or channel counts that describe no operator.
    """
    _check_standard(signature, c_in, c_out)
    graph = Graph(batch=batch)
    operands = [
        graph.input(name, shape) for name, shape in zip("xz", operand_shapes(signature, c_in, c_out), strict=False)
    ]
    emit(graph, signature, operands, c_in, c_out, "y")
    return graph.model("y")


def model_in_context(signature: OpSignature, c_in: int, c_out: int, batch: int) -> onnx.ModelProto:
    """Return the operator between neighbours, as inside a network: producers -> operator -> consumer.

    A producer is a 1x1 convolution of a small plain input with its own ReLU (so that nothing else fuses into it); the
    consumer is a 1x1 convolution. All of them speak the layout the runtime likes best, so whatever layout changes it
    places around the operator are the operator's own doing. Producer values are named `produced0`, `produced1`; the
    consumer's is named `consumer`. Operators on vectors get no neighbours. Raises ValueError for a signature or
    channel counts that describe no operator.
    """
    _check_standard(signature, c_in, c_out)
    if on_vectors(signature):
        return bare_model(signature, c_in, c_out, batch)
    graph = Graph(batch=batch)
    operands = [_produce(graph, i, shape) for i, shape in enumerate(operand_shapes(signature, c_in, c_out))]
    result = emit(graph, signature, operands, c_in, c_out, "result")
    weight = graph.weight((NEIGHBOUR_CHANNELS, c_out, 1, 1), c_out)
    graph.node("Conv", [result, weight], CONSUMER, kernel_shape=[1, 1])
    return graph.model(CONSUMER)


def on_vectors(signature: OpSignature) -> bool:
    """Return whether the operator lives outside the convolutional part: its tensors have no layout to choose."""
    on_pixel = (signature.height, signature.width) == (1, 1)
    return signature.kind == "linear" or (on_pixel and signature.kind in ("activation", "batch_norm"))


def operand_shapes(signature: OpSignature, c_in: int, c_out: int) -> list[tuple[int, ...]]:
    """Return the shapes, without batch, of the operator's one or two tensor operands."""
    height, width = signature.height, signature.width
    if on_vectors(signature):
        return [(c_in,) if height * width == 1 else (height, width, c_in)]
    if signature.kind == "concat":
        return [(c_in - c_in // 2, height, width), (c_in // 2, height, width)] if c_in > 1 else [(c_in, height, width)]
    operand = (c_in, height, width)
    if signature.kind == "add":
        return [operand, operand]
    if signature.kind == "mul":
        return [operand, operand if signature.residual else (c_in, 1, 1)]
    if signature.residual:
        return [operand, (c_out, *output_size(signature))]
    return [operand]


def check_operator(signature: OpSignature, c_in: int, c_out: int) -> None:
    """Raise ValueError for a signature or channel counts that describe no operator."""
    if signature.kind not in KINDS:
        raise ValueError(f"unknown operator kind {signature.kind!r}")
    if min(c_in, c_out) < 1:
        raise ValueError(f"channel counts must be at least 1, got {c_in} -> {c_out}")
    if signature.kind not in ("conv", "linear", "gather") and c_in != c_out:
        raise ValueError(f"{signature.kind} keeps its channels, got {c_in} -> {c_out}")
    if signature.kind == "conv" and (c_in % signature.groups or c_out % signature.groups):
        raise ValueError(f"{c_in} -> {c_out} channels do not divide into {signature.groups} groups")
    fan_in_groups(signature, c_in, c_out)


def _check_standard(signature: OpSignature, c_in: int, c_out: int) -> None:
    check_operator(signature, c_in, c_out)
    if signature.pattern and not Pattern.parse(signature.pattern).lowerable:
        raise ValueError(f"standard operators have no pattern {signature.pattern}")


def _produce(graph: Graph, index: int, shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    name = f"{PRODUCED}{index}"
    if channels <= MAX_IMAGE_CHANNELS:
        return graph.input(name, shape)
    source = graph.input(f"source{index}", (MAX_IMAGE_CHANNELS - 1, height, width))
    weight = graph.weight((channels, MAX_IMAGE_CHANNELS - 1, 1, 1), MAX_IMAGE_CHANNELS)
    convolved = graph.node("Conv", [source, weight], kernel_shape=[1, 1])
    return graph.node("Relu", [convolved], name)


def emit(graph: Graph, signature: OpSignature, operands: list[str], c_in: int, c_out: int, output: str) -> str:
    """Add the operator, its residual add and its activation to `graph`; the last node delivers `output`."""
    adds = signature.residual and signature.kind in ("conv", "depthwise", "gather")
    activates = bool(signature.activation) and signature.kind != "activation"
    value = _core(graph, signature, operands, c_in, c_out, "" if adds or activates else output)
    if adds:
        value = graph.node("Add", [value, operands[1]], "" if activates else output)
    return _activate(graph, signature.activation, value, output) if activates else value


def _core(graph: Graph, signature: OpSignature, operands: list[str], c_in: int, c_out: int, output: str) -> str:
    window = {
        "kernel_shape": list(signature.kernel),
        "strides": list(signature.stride),
        "pads": [*signature.padding, *signature.padding],
    }
    match signature.kind:
        case "conv" | "linear" if signature.pattern:
            return _lowered(graph, signature, operands[0], c_in, c_out, output)
        case "conv" | "depthwise":
            groups = c_in if signature.kind == "depthwise" else signature.groups
            fan_in = c_in // groups * signature.kernel[0] * signature.kernel[1]
            weights = [graph.weight((c_out, c_in // groups, *signature.kernel), fan_in)]
            weights += [graph.weight((c_out,))] if signature.bias else []
            return graph.node(
                "Conv", [operands[0], *weights], output, group=groups, dilations=list(signature.dilation), **window
            )
        case "linear":
            return _linear(graph, signature, operands[0], c_in, c_out, output)
        case "max_pool":
            return graph.node("MaxPool", operands, output, dilations=list(signature.dilation), **window)
        case "avg_pool":
            return graph.node("AveragePool", operands, output, count_include_pad=1, **window)
        case "global_pool":
            return graph.node("GlobalAveragePool", operands, output)
        case "add" | "mul":
            return graph.node(signature.kind.capitalize(), operands, output)
        case "activation":
            return _activate(graph, signature.activation, operands[0], output)
        case "batch_norm":
            moments = [graph.weight((c_in,)) for _ in range(3)]
            return graph.node("BatchNormalization", [operands[0], *moments, graph.floats([1.0] * c_in)], output)
        case "gather":
            return _gather(graph, signature, operands[0], c_in, c_out, output)
        case _:
            return graph.node("Concat", operands, output, axis=1)


def _lowered(graph: Graph, signature: OpSignature, operand: str, c_in: int, c_out: int, output: str) -> str:
    """The nodes that `pruning.lower` makes of a masked layer, with random lists."""
    length, groups = fan_in_groups(signature, c_in, c_out)
    vector, stride = signature.kind == "linear", list(signature.stride)
    if signature.kernel == (1, 1) and stride != [1, 1] and signature.padding == (0, 0):
        operand = graph.node("MaxPool", [operand], kernel_shape=[1, 1], strides=stride)
        stride = [1, 1]
    if (length, groups) != (c_in, 1):
        # Each layer of a graph has lists of its own: runtimes share equal gathers of one value.
        random = np.random.default_rng(sum(node.op_type == "Gather" for node in graph.nodes))
        lists = [np.sort(random.permutation(c_in)[:length]) for _ in range(groups)]
        operand = graph.node("Gather", [operand, graph.ints(np.concatenate(lists).tolist())], axis=1)
    if vector:
        operand = graph.node("Reshape", [operand, graph.ints([graph.batch, groups * length, 1, 1])])
    window = {"pads": [*signature.padding, *signature.padding], "dilations": list(signature.dilation)}
    weights = [graph.weight((c_out, length, *signature.kernel), length)]
    weights += [graph.weight((c_out,))] if signature.bias else []
    value = graph.node("Conv", [operand, *weights], "" if vector else output, strides=stride, group=groups, **window)
    return graph.node("Reshape", [value, graph.ints([graph.batch, c_out])], output) if vector else value


def _linear(graph: Graph, signature: OpSignature, operand: str, c_in: int, c_out: int, output: str) -> str:
    if signature.height * signature.width == 1:
        weights = [graph.weight((c_out, c_in), c_in)] + ([graph.weight((c_out,))] if signature.bias else [])
        return graph.node("Gemm", [operand, *weights], output, transB=1)
    product = graph.node("MatMul", [operand, graph.weight((c_in, c_out), c_in)], "" if signature.bias else output)
    return graph.node("Add", [product, graph.weight((c_out,))], output) if signature.bias else product


def _gather(graph: Graph, signature: OpSignature, operand: str, c_in: int, c_out: int, output: str) -> str:
    strided = signature.stride != (1, 1)
    if strided:
        ends = [graph.ints(v) for v in ([0, 0], [signature.height, signature.width], [2, 3], list(signature.stride))]
        operand = graph.node("Slice", [operand, *ends], output if c_in == c_out else "")
    if c_out > c_in:
        pads = graph.ints([0, 0, 0, 0, 0, c_out - c_in, 0, 0])
        return graph.node("Pad", [operand, pads], output)
    if c_out < c_in or not strided:
        # Every n-th channel: spread over the map, as the channels that survive pruning are.
        picks = graph.ints([i * c_in // c_out for i in range(c_out)])
        operand = graph.node("Gather", [operand, picks], output, axis=1)
    return operand


def _activate(graph: Graph, activation: str, value: str, output: str) -> str:
    match activation:
        case "relu" | "hardswish" | "sigmoid" | "tanh" | "elu":
            return graph.node(_ONNX_NAMES[activation], [value], output)
        case "relu6":
            return graph.node("Clip", [value, graph.scalar(0.0), graph.scalar(6.0)], output)
        case "leaky_relu":
            return graph.node("LeakyRelu", [value], output, alpha=0.01)
        case "hardsigmoid":
            return graph.node("HardSigmoid", [value], output, alpha=1 / 6, beta=0.5)
        case "silu":
            return graph.node("Mul", [value, graph.node("Sigmoid", [value])], output)
        case "gelu":
            # Spelled out as PyTorch exports it, so that the runtime fuses it as it would in a network.
            scaled = graph.node("Div", [value, graph.scalar(2**0.5)])
            shifted = graph.node("Add", [graph.node("Erf", [scaled]), graph.scalar(1.0)])
            return graph.node("Mul", [graph.node("Mul", [value, shifted]), graph.scalar(0.5)], output)
        case "softmax":
            return graph.node("Softmax", [value], output, axis=1)
        case _:
            raise ValueError(f"unknown activation {activation!r}")


_ONNX_NAMES = {"relu": "Relu", "hardswish": "HardSwish", "sigmoid": "Sigmoid", "tanh": "Tanh", "elu": "Elu"}


def identity_model() -> onnx.ModelProto:
    """Return a graph that does nothing: what it takes is the fixed cost of a run."""
    graph = Graph(batch=1)
    return graph.model(graph.node("Identity", [graph.input("x", ())], "y"))
