"""From widths to networks: `slim` removes channels, `mask` zeroes them, `slice_head` keeps chosen logits."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from pruning.canonical import annotate
from pruning.groups import Coupling, coupling_of
from pruning.labels import varying_axes
from pruning.modules import ChannelAffine, ChannelGather, ChannelPad
from pruning.network import CouplingGroup, Keep, Network
from pruning.nodes import module_of, source
from pruning.trace import output_node

_AXIS = {"out": 0, "channel": 0, "in": 1}
_COUNTS = {
    "out": ("out_channels", "out_features"),
    "in": ("in_channels", "in_features"),
    "channel": ("num_features", "num_parameters", "out_channels"),
}


def slim(network: Network, groups: Sequence[CouplingGroup], keep: Keep) -> Network:
    """Return a smaller copy of `network` that holds the kept units alone; nodes and parameters keep their names.

    Its outputs equal those of `mask(network, groups, keep)`, at any batch size and in whatever order units are kept.

    Parameters
    ----------
    groups
        `coupling_groups(network)`; they give `keep` its meaning.
    keep
        Kept units by group id, at least one each, in the order in which they shall lie: the r-th named unit takes the
        place of the r-th smallest. All units in another order reorder the channels of a network that computes the same.

    Raises
    ------
    ValueError
        `keep` names a group that does not exist or is frozen, or its indices are not different units.
    """
    cut = _prepared(network, groups, keep)
    small = copy.deepcopy(network.module)
    with torch.no_grad():
        for (name, axis), labels in cut.coupling.identities.slots.items():
            _take(small.get_submodule(name), axis, torch.from_numpy(cut.positions(labels)))
    for node in small.graph.nodes:
        _shrink_node(small, node, cut)
    small.recompile()
    return replace(network, module=small)


def mask(network: Network, groups: Sequence[CouplingGroup], keep: Keep) -> Network:
    """Return a copy of `network` of the same shapes in which the units that are not kept have no effect.

    Their producers' weights and biases are zero and so are the consumers' weights that read them; their BatchNorm
    channels have weight, bias and mean 0 and variance 1. Every unit stays in its place, in whatever order `keep` names
    it. Errors as in `slim`.
    """
    cut = _prepared(network, groups, keep)
    masked = copy.deepcopy(network.module)
    with torch.no_grad():
        for (name, axis), labels in cut.coupling.identities.slots.items():
            _zero(masked.get_submodule(name), axis, torch.from_numpy(np.flatnonzero(~cut.stay[labels])))
    for node in masked.graph.nodes:
        child = module_of(masked, node)
        if isinstance(child, ChannelPad):
            kept_in, kept_out = (torch.from_numpy(cut.stay[cut.line(name)]) for name in (source(node).name, node.name))
            gone = ~kept_out | ((child.index >= 0) & ~kept_in[child.index])
            masked.set_submodule(str(node.target), ChannelPad(child.index.masked_fill(gone, -1)))
    return replace(network, module=masked)


def slice_head(network: Network, rows: Sequence[int]) -> Network:
    """Return a copy whose output is the logits `rows` of `network`, in that order.

    The rows of the last linear or convolutional layer are selected; pooling, flattening and activations may follow it.

    Raises ValueError for rows that do not exist, none at all, and where no such layer gives the logits.
    """
    return _with_head(network, rows, lambda module, index: _take(module, "out", index), len(rows))


def mask_head(network: Network, rows: Sequence[int]) -> Network:
    """Return a copy whose logits outside `rows` are -10,000 (0 behind a ReLU), so that none of them is the largest.

    Raises ValueError as `slice_head` does.
    """

    def silence(module: nn.Module, index: Tensor) -> None:
        others = torch.ones(network.num_outputs, dtype=torch.bool)
        others[index] = False
        _tensor(module, "weight")[others] = 0
        if getattr(module, "bias", None) is None:
            module.bias = nn.Parameter(torch.zeros(network.num_outputs))
        _tensor(module, "bias")[others] = -1e4

    return _with_head(network, rows, silence, network.num_outputs)


def head_module(network: Network) -> str:
    """Return the name of the linear or convolutional module whose output channels are the logits, one for one.

    Raises ValueError where an operator that mixes channels is in between, or another node reads the logits too.
    """
    node = output_node(network.module)
    while node.op in ("call_module", "call_function") and len(node.users) == 1:
        if node.op == "call_module":
            module = network.module.get_submodule(str(node.target))
            if isinstance(module, nn.Linear | nn.Conv2d) and getattr(module, "groups", 1) == 1:
                return str(node.target)
            if list(module.parameters()) or isinstance(module, ChannelGather):
                break
        parents = [parent for parent in node.all_input_nodes if "shape" in parent.meta]
        if len(parents) != 1 or parents[0].meta["shape"][1] != network.num_outputs:
            break
        node = parents[0]
    raise ValueError(f"no linear or convolutional layer gives the logits directly: `{node.name}` stands in the way")


def _with_head(
    network: Network, rows: Sequence[int], change: Callable[[nn.Module, Tensor], None], num_outputs: int
) -> Network:
    index = torch.tensor(list(rows), dtype=torch.int64)
    if not len(index) or int(index.min()) < 0 or int(index.max()) >= network.num_outputs or len(set(rows)) != len(rows):
        raise ValueError(
            f"rows must be different logits between 0 and {network.num_outputs - 1}, at least one: {list(rows)}"
        )
    module = copy.deepcopy(network.module)
    with torch.no_grad():
        change(module.get_submodule(head_module(network)), index)
    annotate(module, network.input_shape)
    return replace(network, module=module, num_outputs=num_outputs)


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """What stays of a network, by channel labels."""

    coupling: Coupling
    stay: np.ndarray
    """bool [labels]."""
    comes: np.ndarray
    """int64 [labels]: whose channels come to lie where this label's lie."""

    def line(self, node_name: str) -> np.ndarray:
        """Return the labels int64 [C] of a node's channels (axis 1)."""
        ids = self.coupling.identities.tensors[node_name]
        return ids[tuple(slice(None) if d == 1 else 0 for d in range(ids.ndim))].numpy()

    def positions(self, labels: np.ndarray) -> np.ndarray:
        """Return which of these labelled positions stay, in their new order.

        Where a label stands several times (convolution groups, flattened pixels), its k-th place is taken by the k-th
        of the label that comes; so tensors with the same labels are reordered alike, and what joins them stays right.
        """
        kept = np.flatnonzero(self.stay[labels])
        old, new = labels[kept], self.comes[labels[kept]]
        if np.array_equal(old, new):
            return kept
        order = np.empty_like(kept)
        order[np.argsort(new, kind="stable")] = kept[np.argsort(old, kind="stable")]
        return order


def _prepared(network: Network, groups: Sequence[CouplingGroup], keep: Keep) -> _Cut:
    coupling = coupling_of(network)
    if [(g.id, g.units) for g in groups] != [(g.id, g.units) for g in coupling.groups]:
        raise ValueError("these coupling groups belong to another network")
    return _Cut(coupling=coupling, stay=coupling.kept(keep), comes=coupling.moved(keep))


def _tensor(module: nn.Module, name: str) -> Tensor:
    value: Tensor = getattr(module, name)
    return value


def _per_channel(module: nn.Module, axis: str) -> list[str]:
    """Return the names of the tensors of `module` that have one row for each channel of `axis`."""
    names = ["weight"] if axis == "in" else ["weight", "bias", "running_mean", "running_var"]
    return [name for name in names if isinstance(getattr(module, name, None), Tensor)]


def _columns(module: nn.Module, positions: Tensor) -> Tensor:
    """Return which columns of the weight hold these input channels: every convolution group has the same ones."""
    return positions[: len(positions) // int(getattr(module, "groups", 1))]


def _take(module: nn.Module, axis: str, positions: Tensor) -> None:
    """Keep `positions` along `axis` of every tensor of the module, and its own channel counts in step."""
    if axis == "in" and torch.equal(positions, torch.arange(int(getattr(module, _count_name(module, axis))))):
        return
    index = _columns(module, positions) if axis == "in" else positions
    for name in _per_channel(module, axis):
        old = _tensor(module, name)
        new = old.detach().index_select(_AXIS[axis], index.to(old.device)).clone()
        setattr(
            module, name, nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
        )
    if axis == "channel" and isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        multiplier = module.out_channels // module.in_channels
        module.in_channels = module.groups = len(positions) // multiplier
    if not isinstance(module, ChannelAffine):
        setattr(module, _count_name(module, axis), len(positions))


def _count_name(module: nn.Module, axis: str) -> str:
    return next(name for name in (*_COUNTS[axis], "") if not name or hasattr(module, name))


def _zero(module: nn.Module, axis: str, positions: Tensor) -> None:
    """Make `positions` along `axis` of the module have no effect."""
    for name in _per_channel(module, axis):
        tensor = _tensor(module, name)
        if axis != "in":
            tensor[positions] = 1 if name == "running_var" else 0
        elif getattr(module, "groups", 1) > 1:
            tensor[:, _columns(module, positions)] = 0
        else:
            tensor[:, positions] = 0


def _shrink_node(small: fx.GraphModule, node: fx.Node, cut: _Cut) -> None:
    """Correct what a node says about channel positions and counts, and its shape."""
    tensors = cut.coupling.identities.tensors
    if node.name in tensors:
        node.meta["shape"] = _kept_shape(tensors[node.name], cut.stay)
    child = module_of(small, node)
    if isinstance(child, ChannelGather):
        line_in, line_out = (cut.line(name) for name in (source(node).name, node.name))
        rank = torch.full((len(line_in),), -1)
        rank[cut.positions(line_in)] = torch.arange(int(cut.stay[line_in].sum()))
        index = child.index[cut.positions(line_out)]
        new = torch.where(index >= 0, rank[index], -1)
        small.set_submodule(str(node.target), type(child)(new))
    elif node.op == "call_function" and node.target is torch.reshape:
        node.args = (node.args[0], _new_sizes(node.args[1], node.meta["shape"]))


def _new_sizes(sizes: Any, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Return the sizes of a reshape: constants follow the new shape, but for -1 and what depends on the batch."""
    fixed = [isinstance(size, int) and size > 0 and axis > 0 for axis, size in enumerate(sizes)]
    return tuple(new if own else size for size, new, own in zip(sizes, shape, fixed, strict=True))


def _kept_shape(ids: Tensor, stay: np.ndarray) -> tuple[int, ...]:
    """Return the shape of what stays of a tensor: its channels lie along one axis at most."""
    shape = list(ids.shape)
    for axis in varying_axes(ids):
        line = ids[tuple(slice(None) if d == axis else 0 for d in range(ids.ndim))]
        shape[axis] = int(stay[line.numpy()].sum())
    return tuple(shape)
