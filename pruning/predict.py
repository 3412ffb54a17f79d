"""A latency table's word on a network: the sum over its operators, at the widths and patterns of a plan."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from lut.pattern import Pattern
from lut.signature import OpSignature
from lut.table import LatencyTable
from pruning.network import Operator, Widths
from pruning.patterns.values import differs


def predicted_us(
    operators: Iterable[Operator],
    widths: Widths,
    table: LatencyTable,
    patterns: Mapping[str, Pattern] = MappingProxyType({}),
) -> float:
    """Return the table's latency of the network at the given widths, in microseconds. Raises `lut.table.LutMiss`.

    `patterns` by operator; where one keeps everything of these widths, the layer is dense.
    """
    return table.predict_us(_counted(operators, widths, patterns))


def _counted(
    operators: Iterable[Operator], widths: Widths, patterns: Mapping[str, Pattern]
) -> Iterator[tuple[OpSignature, int, int]]:
    """Yield (signature, c_in, c_out) of every operator that is left."""
    for operator in operators:
        signature, c_in, c_out = operator.signature, operator.c_in.at(widths), operator.c_out.at(widths)
        pattern = patterns.get(operator.name)
        if pattern is not None and differs(pattern, c_in, c_out, math.prod(signature.kernel)):
            signature = replace(signature, pattern=pattern.id)
        if c_in and c_out:
            yield signature, c_in, c_out
