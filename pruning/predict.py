"""A latency table's word on a network: the sum over its operators, as a plan describes them or as they were built."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from torch import fx, nn

from lut.pattern import Pattern
from lut.signature import OpSignature
from lut.table import LatencyTable
from pruning.modules import ChannelSelect
from pruning.network import Network, Operator, Widths
from pruning.nodes import module_of
from pruning.patterns.values import differs

Counted = tuple[OpSignature, int, int]
"""Signature, input channels, output channels."""
Built = tuple[OpSignature, int, int, float]
"""And the share of that which is computed."""


def predicted_us(
    operators: Iterable[Operator],
    widths: Widths,
    table: LatencyTable,
    patterns: Mapping[str, Pattern] = MappingProxyType({}),
) -> float:
    """Return the table's latency of the network at the given widths, in microseconds. Raises `lut.table.LutMiss`.

    `patterns` by operator; where one keeps everything of these widths, the layer is dense. This is what the knapsack adds up:
    each layer by itself, whatever its neighbours read of it.
    """
    return table.predict_us(_counted(operators, widths, patterns))


def built_us(
    operators: Iterable[Operator],
    network: Network,
    widths: Widths,
    table: LatencyTable,
    patterns: Mapping[str, Pattern] = MappingProxyType({}),
) -> float:
    """Return the table's latency of `network`, slimmed and lowered to `widths` and `patterns`. Raises `lut.table.LutMiss`.

    Lowering does not compute channels that no list of a masked layer reads: what produces them is narrower than its width, and
    a layer of one block-row that is the only reader is dense, on fewer inputs (`pruning.lower.unread`). So counts are those of the
    network as it is; where the table does not reach that far down, in proportion to the fewest it holds. A masked layer keeps
    its block-rows, each of them narrower, and takes that share of what it takes at its width.

    Args:
        operators: of the dense network.
        network: nodes are called as in the dense network; what has none was removed.
        widths: by group.
        patterns: by operator.
    """
    total_us = 0.0
    for signature, *counts, computed in _as_built(operators, network, widths, patterns):
        held = [max(pair) for pair in zip(counts, table.least(signature), strict=True)]
        shares = [count / most for count, most in zip(counts, held, strict=True)]
        # Only weights grow with both sides; what keeps its channels grows with their number.
        share = math.prod(shares) if signature.kind in ("conv", "linear") else shares[1]
        total_us += computed * share * table.latency_us(signature, *held)
    return total_us


def _counted(operators: Iterable[Operator], widths: Widths, patterns: Mapping[str, Pattern]) -> Iterator[Counted]:
    """Yield every operator that is left."""
    for operator in operators:
        signature, c_in, c_out = operator.signature, operator.c_in.at(widths), operator.c_out.at(widths)
        pattern = patterns.get(operator.name)
        if pattern is not None and differs(pattern, c_in, c_out, math.prod(signature.kernel)):
            signature = replace(signature, pattern=pattern.id)
        if c_in and c_out:
            yield signature, c_in, c_out


def _as_built(
    operators: Iterable[Operator], network: Network, widths: Widths, patterns: Mapping[str, Pattern]
) -> Iterator[Built]:
    """Yield every operator that is left."""
    nodes = {node.name: node for node in network.module.graph.nodes}
    for operator in operators:
        node = nodes.get(operator.name)
        if node is None:
            continue
        axis = -1 if operator.signature.kind == "linear" else 1
        c_out = int(node.meta["shape"][axis])
        c_in = c_out if operator.c_in == operator.c_out else int(node.all_input_nodes[0].meta["shape"][axis])
        signature, computed = operator.signature, 1.0
        if operator.name in patterns and _is_lowered(network.module, node):
            signature = replace(signature, pattern=patterns[operator.name].id)
            # Entries of a pattern are by the channels its lists choose from, and by all its block-rows.
            c_in, width = operator.c_in.at(widths), operator.c_out.at(widths)
            c_out, computed = width, c_out / width
        yield signature, c_in, c_out, computed


def _is_lowered(module: fx.GraphModule, node: fx.Node) -> bool:
    layer = module_of(module, node)
    gathers = isinstance(module_of(module, node.all_input_nodes[0]), ChannelSelect)
    return gathers or (isinstance(layer, nn.Conv2d) and layer.groups > 1)
