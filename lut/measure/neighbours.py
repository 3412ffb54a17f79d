"""Operators timed by difference: neighbours with the operator between them, less the neighbours alone.

For runtimes that choose layouts and fuse as they load a graph, and do not give the result back as a graph of their
own. The neighbours speak the layout the runtime likes best: a producer, a 1x1 convolution of a small image with its
own ReLU, and a consumer, a convolution whose stride is the map, which reads four pixels and costs next to nothing.
(A 1x1 consumer would not do: OpenVINO pulls its stride through to the operator, and computes one pixel.)

A run has many copies, each with weights of its own. Copies that would be equal otherwise, because the operator has no
weights, get producers of their own: runtimes compute equal operators of one value once. An operator that adds to a
residual adds to the copy before it, so that it may work in place, as in a network.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import onnx

from lut.measure.onnx_graph import Graph
from lut.measure.onnx_ops import (
    MAX_IMAGE_CHANNELS,
    check_operator,
    emit,
    identity_model,
    on_vectors,
    operand_shapes,
)
from lut.measure.runtime import Run
from lut.request import num_weights, output_size
from lut.signature import OpSignature

CONSUMED_CHANNELS = 16
"""Output channels of a consumer: one block of a blocked layout."""
Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class BetweenNeighbours:
    """An operator of a runtime that loads whole graphs."""

    signature: OpSignature
    c_in: int
    c_out: int
    batch: int
    load: Callable[[bytes], Run]
    """Loads an ONNX model and returns a run of it."""

    def __post_init__(self) -> None:
        """Raise ValueError for a signature or channel counts that describe no operator."""
        check_operator(self.signature, self.c_in, self.c_out)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the operator's weight tensor."""
        return 4 * num_weights(self.signature, self.c_in, self.c_out)

    def held_bytes(self, copies: int) -> int:
        """Return the weights of all copies twice, as given and as packed, and the maps of two graphs."""
        shapes = [*operand_shapes(self.signature, self.c_in, self.c_out), (self.c_out, *output_size(self.signature))]
        maps = sum(4 * self.batch * math.prod(shape) for shape in shapes)
        return 2 * copies * self.weight_bytes + 2 * maps * (1 if self.distinct else copies)

    def run(self, copies: int, *, own_outputs: bool) -> Run:
        """Return a run of the copies; every copy has its output for itself anyway."""
        return self.load(self.model(copies, with_operator=True).SerializeToString())

    def rest(self, copies: int) -> Run:
        """Return a run of the neighbours alone."""
        return self.load(self.model(copies, with_operator=False).SerializeToString())

    def model(self, copies: int, *, with_operator: bool) -> onnx.ModelProto:
        """Return the graph of `copies`, or of their neighbours alone."""
        if on_vectors(self.signature):
            return self._on_vectors(copies) if with_operator else identity_model()
        return _Walk(self, copies, with_operator).model()

    @property
    def adds(self) -> bool:
        """Whether the operator adds to a residual, in place."""
        return self.signature.residual and self.signature.kind in ("conv", "depthwise")

    @property
    def distinct(self) -> bool:
        """Whether copies of it on one input differ from each other: by weights that everything in them depends on."""
        return self.signature.kind in ("conv", "depthwise", "linear") and not self.signature.pattern

    def _on_vectors(self, copies: int) -> onnx.ModelProto:
        graph = Graph(batch=self.batch)
        (shape,) = operand_shapes(self.signature, self.c_in, self.c_out)
        inputs = [graph.input(f"x{number}", shape) for number in range(1 if self.distinct else copies)]
        return graph.model(
            *(
                emit(graph, self.signature, [inputs[number % len(inputs)]], self.c_in, self.c_out, f"y{number}")
                for number in range(copies)
            )
        )


class _Walk:
    """Builds one graph of operators on maps."""

    def __init__(self, operator: BetweenNeighbours, copies: int, with_operator: bool) -> None:
        self.operator, self.copies, self.with_operator = operator, copies, with_operator
        self.graph = Graph(batch=operator.batch)
        self.produced: dict[tuple[int, int], str] = {}
        self.sources: dict[Shape, str] = {}
        self.outputs: list[str] = []

    def model(self) -> onnx.ModelProto:
        operator, before = self.operator, ""
        shapes = operand_shapes(operator.signature, operator.c_in, operator.c_out)
        result = (operator.c_out, *output_size(operator.signature))
        for copy in range(self.copies):
            group = 0 if operator.distinct else copy
            operands = [self._produce(group, position, shape) for position, shape in enumerate(shapes)]
            given = operands[1:] if not operator.adds or not copy else []
            # What the other operand costs is in both graphs; it is consumed in both, or runtimes would leave it out.
            extra = zip(given, shapes[1:], strict=False) if not operator.adds else ()
            for value, shape in extra:
                self._consume(value, shape)
            last = copy == self.copies - 1
            if self.with_operator:
                if operator.adds and before:
                    operands[1] = before
                before = emit(self.graph, operator.signature, operands, operator.c_in, operator.c_out, "")
                if last or not operator.adds:
                    self._consume(before, result)
            elif last or not operator.adds:
                self._consume(operands[0], shapes[0])
                if operator.adds:
                    self._consume(operands[1], shapes[1])
        return self.graph.model(*self.outputs)

    def _produce(self, group: int, position: int, shape: Shape) -> str:
        channels, height, width = shape
        key = (0 if channels <= MAX_IMAGE_CHANNELS else group, position)
        if key not in self.produced:
            self.produced[key] = (
                self.graph.input(f"image{position}", shape)
                if channels <= MAX_IMAGE_CHANNELS
                else self._convolved(channels, (MAX_IMAGE_CHANNELS - 1, height, width))
            )
        return self.produced[key]

    def _convolved(self, channels: int, source: Shape) -> str:
        if source not in self.sources:
            self.sources[source] = self.graph.input(f"source{len(self.sources)}", source)
        weight = self.graph.weight((channels, source[0], 1, 1), source[0])
        value = self.graph.node("Conv", [self.sources[source], weight], kernel_shape=[1, 1])
        return self.graph.node("Relu", [value])

    def _consume(self, value: str, shape: Shape) -> None:
        channels, height, width = shape
        kernel = min(2, height), min(2, width)
        weight = self.graph.weight((CONSUMED_CHANNELS, channels, *kernel), channels)
        self.outputs.append(
            self.graph.node("Conv", [value, weight], kernel_shape=list(kernel), strides=[height, width])
        )
