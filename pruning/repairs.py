"""Which layers of a slimmed network to solve again, and towards which outputs of the dense one.

Letters: o = output channels of a layer that the slimmed network still has.
"""

import operator
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn

from pruning.activations import Wanted
from pruning.modules import ChannelAffine
from pruning.network import CouplingGroup, Keep, Network


@dataclass(frozen=True, kw_only=True)
class Repair:
    """One layer to solve, with the affine map behind it and the sum that ends its branch."""

    node: fx.Node
    layer: nn.Conv2d | nn.Linear
    affine: str | None
    sum: fx.Node | None
    other: fx.Node | None
    kept: Tensor
    """int64 [o]: output channels of the dense layer that the slimmed layer still has."""

    @property
    def wanted(self) -> Wanted:
        """The dense outputs to be matched."""
        source = self.node if self.sum is None else self.sum
        linear = isinstance(self.layer, nn.Linear)
        return Wanted(layer=self.node.name, node=source.name, kept=self.kept, channels_last=linear)


def repairs(
    dense: Network, slimmed: Network, groups: Sequence[CouplingGroup], keep: Keep, masked: Collection[str]
) -> tuple[dict[fx.Node, Repair], dict[str, str]]:
    """Return the layers to solve by their node in the slimmed graph, and those that are left with the reason.

    These are all that lost weights or whose input has changed; `masked` names the layers that lost single weights.
    """
    old, new = dict(dense.module.named_modules()), dict(slimmed.module.named_modules())
    order = {node: place for place, node in enumerate(slimmed.module.graph.nodes)}
    names = {node.name for node in dense.module.graph.nodes}
    calls = Counter(str(node.target) for node in order if node.op == "call_module")
    tasks: dict[fx.Node, Repair] = {}
    left: dict[str, str] = {}
    for node in _changed(dense.module, slimmed.module, masked):
        layer = new.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        reason = _why_not(layer, calls[str(node.target)], node.name in names)
        if reason:
            left[str(node.target)] = reason
            continue
        affine, end, other = _branch_end(node, new, order)
        if end is not None and end.name not in names:
            end = other = None
        kept = _kept_outputs(str(node.target), _weight(old[str(node.target)]).shape[0], groups, keep)
        assert len(kept) == len(layer.weight), f"{node.target}: {len(kept)} outputs kept, {len(layer.weight)} there"
        tasks[node] = Repair(node=node, layer=layer, affine=affine, sum=end, other=other, kept=kept)
    return tasks, left


def _changed(dense: fx.GraphModule, slimmed: fx.GraphModule, masked: Collection[str]) -> list[fx.Node]:
    """Return the slimmed graph's nodes, in order, that are masked or do not read what the dense network gives them."""
    old, new = dict(dense.named_modules()), dict(slimmed.named_modules())
    read = {node.name: [source.name for source in node.all_input_nodes] for node in dense.graph.nodes}
    changed: dict[fx.Node, None] = {}
    for node in slimmed.graph.nodes:
        layer = new.get(str(node.target)) if node.op == "call_module" else None
        lost = isinstance(layer, nn.Conv2d | nn.Linear) and (
            str(node.target) in masked
            or str(node.target) not in old
            or _weight(old[str(node.target)]).shape[1] != layer.weight.shape[1]
        )
        rewired = [source.name for source in node.all_input_nodes] != read.get(node.name)
        if lost or rewired or any(source in changed for source in node.all_input_nodes):
            changed[node] = None
    return list(changed)


def _weight(layer: nn.Module) -> Tensor:
    assert isinstance(layer.weight, Tensor)
    return layer.weight


def _why_not(layer: nn.Conv2d | nn.Linear, num_calls: int, in_dense: bool) -> str:
    if num_calls > 1:
        return "the layer is used at several places"
    if not in_dense:
        return "the layer has no counterpart in the dense network"
    if isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1:
        return "it is depthwise: no channel it reads was cut"
    if isinstance(layer, nn.Conv2d) and (layer.padding_mode != "zeros" or isinstance(layer.padding, str)):
        return "its padding is not a number of zeros"
    return ""


def _branch_end(
    node: fx.Node, modules: Mapping[str, nn.Module], order: Mapping[fx.Node, int]
) -> tuple[str | None, fx.Node | None, fx.Node | None]:
    """Return (name of the affine map behind the layer, the sum that ends its branch, the sum's other branch)."""
    tail, affine = node, None
    follower = next(iter(node.users)) if len(node.users) == 1 else None
    if follower is not None and follower.op == "call_module":
        behind = modules[str(follower.target)]
        if isinstance(behind, nn.BatchNorm2d | ChannelAffine) and len(follower.users) == 1:
            tail, affine = follower, str(follower.target)
            follower = next(iter(follower.users))
    if follower is None or follower.target is not operator.add or len(follower.all_input_nodes) != 2:
        return affine, None, None
    other = next(side for side in follower.all_input_nodes if side is not tail)
    same_shape = other.meta.get("shape") == tail.meta.get("shape") is not None
    # The branch that comes last repairs the sum: the other one is known by then.
    return (affine, follower, other) if same_shape and order[other] < order[node] else (affine, None, None)


def _kept_outputs(module: str, num_outputs: int, groups: Sequence[CouplingGroup], keep: Keep) -> Tensor:
    """Return int64 [o]: which dense output each output of the slimmed layer is, in the order `keep` gives units."""
    source, stays = np.arange(num_outputs), np.ones(num_outputs, dtype=bool)
    for group in groups:
        for slot in group.slots:
            if group.id in keep and slot.module == module and slot.axis != "in":
                units = keep[group.id]
                source[slot.index[np.sort(units)]] = slot.index[units]
                stays[np.delete(slot.index, units, axis=0).ravel()] = False
    return torch.from_numpy(source[stays])
