"""Activations that exporters spell out with several ONNX operators."""

import math
from collections import defaultdict

import numpy as np
import onnx

from pruning.onnx_builder import Builder


def gelus(nodes: list[onnx.NodeProto], builder: Builder) -> dict[int, str]:
    """Find x * (1 + erf(x / sqrt 2)) / 2 in any order of factors; constants must be initialisers or Constant nodes.

    Returns the id() of every node of a match: the name of x for the last one, an empty string for the others.
    """
    search = _Search(nodes, builder)
    found: dict[int, str] = {}
    for node in nodes:
        if node.op_type == "Erf":
            found |= search.match(node)
    return found


class _Search:
    def __init__(self, nodes: list[onnx.NodeProto], builder: Builder) -> None:
        self.makers = {name: node for node in nodes for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in nodes:
            for name in node.input:
                self.readers[name].append(node)
        self.values = builder.values

    def match(self, erf: onnx.NodeProto) -> dict[int, str]:
        scale = self.makers.get(erf.input[0])
        if scale is None or len(self.readers[erf.input[0]]) != 1:
            return {}
        x = self._other(scale, 2**0.5 if scale.op_type == "Div" else 0.5**0.5, ("Div", "Mul"))
        shift = self._only_reader(erf)
        if x is None or shift is None or self._other(shift, 1.0, ("Add",)) is None:
            return {}
        product = self._only_reader(shift)
        if product is None or product.op_type != "Mul":
            return {}
        matched = [scale, erf, shift, product]
        (other,) = [name for name in product.input if name != shift.output[0]] or [""]
        half = self.makers.get(other)
        if (
            self._constant(other) is None
            and half is not None
            and len(self.readers[other]) == 1
            and self._other(half, 0.5, ("Mul",)) == x
        ):
            return self._result([half, *matched], x)
        last = self._only_reader(product)
        if last is None or last.op_type != "Mul":
            return {}
        factors = [other, *(name for name in last.input if name != product.output[0])]
        constants = [c for name in factors if (c := self._constant(name)) is not None]
        if len(factors) == 2 and x in factors and len(constants) == 1 and math.isclose(constants[0], 0.5):
            return self._result([*matched, last], x)
        return {}

    @staticmethod
    def _result(matched: list[onnx.NodeProto], x: str) -> dict[int, str]:
        return {id(node): "" for node in matched[:-1]} | {id(matched[-1]): x}

    def _only_reader(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        readers = self.readers[node.output[0]]
        return readers[0] if len(readers) == 1 else None

    def _other(self, node: onnx.NodeProto, constant: float, kinds: tuple[str, ...]) -> str | None:
        """Return the operand that stands beside `constant` in `node`, if it is one of `kinds` and has one."""
        if node.op_type not in kinds or len(node.input) != 2:
            return None
        for one, other in (node.input, reversed(node.input)) if node.op_type != "Div" else (node.input,):
            value = self._constant(other)
            if value is not None and math.isclose(value, constant, rel_tol=1e-5):
                return str(one)
        return None

    def _constant(self, name: str) -> float | None:
        maker = self.makers.get(name)
        value = self.values.get(name)
        if maker is not None and maker.op_type == "Constant" and maker.attribute[0].HasField("t"):
            value = onnx.numpy_helper.to_array(maker.attribute[0].t)
        return float(value.reshape(-1)[0]) if isinstance(value, np.ndarray) and value.size == 1 else None
