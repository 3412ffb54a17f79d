"""What of a network stays as it is, whatever the plan: layer by layer, with the operator that is to blame and the work."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.utils.flop_counter import FlopCounterMode

from lut.request import num_macs
from pruning.groups import Coupling, coupling_of
from pruning.network import CouplingGroup, Network
from pruning.operators import operators, unpriced
from pruning.shapes import Ghost


@dataclass(frozen=True, kw_only=True)
class DenseLayer:
    """An operator whose cost no plan changes, or that no latency table has a kind for."""

    name: str
    """Node name in the traced graph; that of its `Operator` where `priced`."""
    module: str
    """Dotted name of the module it calls, or the node name again."""
    reason: str
    """Why, with the blocking operator named."""
    num_macs: int
    """Multiply-accumulates at the dense widths (values written, where it multiplies no matrices)."""
    priced: bool
    """False for attention, LayerNorm and whatever else has no kind in a table; its channels may still change."""


def dense_layers(network: Network, groups: Sequence[CouplingGroup]) -> tuple[DenseLayer, ...]:
    """Return the operators of `network` that stay dense and those that cannot be priced, in graph order."""
    coupling = coupling_of(network)
    dense = {group.id: group.units for group in groups if not group.frozen}
    nodes: dict[str, fx.Node] = {node.name: node for node in network.module.graph.nodes}
    found = {}
    for cost in operators(network, groups):
        if not cost.c_in.terms and not cost.c_out.terms:
            macs = num_macs(cost.signature, cost.c_in.at(dense), cost.c_out.at(dense))
            found[cost.name] = _layer(nodes[cost.name], _blame(coupling, nodes[cost.name]), macs, priced=True)
    names = unpriced(network, groups)
    macs_of = _macs(network, set(names))
    for name in names:
        reason = f"no latency table has a kind for {_kind(network, nodes[name])} `{name}`"
        found[name] = _layer(nodes[name], reason, macs_of[name], priced=False)
    return tuple(found[name] for name in nodes if name in found)


def _layer(node: fx.Node, reason: str, macs: int, *, priced: bool) -> DenseLayer:
    module = str(node.target) if node.op == "call_module" else node.name
    return DenseLayer(name=node.name, module=module, reason=reason, num_macs=macs, priced=priced)


def _blame(coupling: Coupling, node: fx.Node) -> str:
    """Return why the channels that a node writes, or else those it reads, are frozen."""
    identities = coupling.identities
    for one in (node, *node.all_input_nodes):
        if one.name in identities.tensors:
            labels = np.unique(identities.tensors[one.name].numpy())
            reasons = [identities.frozen[label] for label in labels.tolist() if label in identities.frozen]
            if reasons:
                return reasons[0]
    return "it reads and writes no channels but those of the images, the logits and fixed tensors"


def _kind(network: Network, node: fx.Node) -> str:
    if node.op == "call_module":
        return type(network.module.get_submodule(str(node.target))).__name__
    return str(getattr(node.target, "__name__", node.target))


def _macs(network: Network, names: set[str]) -> dict[str, int]:
    """Return the multiply-accumulates of these nodes on one image, counted by PyTorch while it runs without data."""
    counter = _Counter(network.module, names)
    with torch.no_grad():
        counter.run(torch.empty((1, *network.input_shape), device="meta"))
    return counter.macs


class _Counter(Ghost):
    """Runs the graph without data and counts what chosen nodes do."""

    def __init__(self, module: fx.GraphModule, names: set[str]) -> None:
        super().__init__(module)
        self.names = names
        self.macs: dict[str, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.name not in self.names:
            return super().run_node(n)
        with FlopCounterMode(display=False) as counter:
            result = super().run_node(n)
        written = result[0] if isinstance(result, tuple) else result
        values = written.numel() if isinstance(written, torch.Tensor) else 0
        self.macs[n.name] = max(int(counter.get_total_flops()) // 2, values)
        return result
