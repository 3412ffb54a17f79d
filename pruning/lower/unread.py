"""Output channels that no gather reads need not be computed, and can be computed in the order in which they are read.

Random masks of a quarter of the inputs leave, between two convolutions of 64 and 128 channels, three of four and more
than every second channel unread.
"""

from collections import Counter

import torch
from torch import Tensor, fx, nn

from pruning.modules import PER_CHANNEL, ChannelAffine, ChannelSelect
from pruning.nodes import module_of

CHANNEL_BLOCK = 16
"""Groups of a multiple of this many channels suit the vector units of every runtime; others may run much slower."""
_KEEPS_CHANNELS = (
    nn.ReLU, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.GELU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Identity, nn.Dropout,
    nn.MaxPool2d, nn.AvgPool2d,
)  # fmt: skip
"""Modules without parameters that treat every channel by itself and alike."""


def drop_unread(module: fx.GraphModule) -> None:
    """Compute only the channels that are read, where every reader of a convolution is a `ChannelSelect`.

    BatchNorm, activations, pooling and depthwise convolutions may stand between. Every group keeps as many channels: a
    whole number of `CHANNEL_BLOCK`, unless there is one group. A convolution of one group whose only reader names each
    channel at most once delivers them in that order, and the gather is gone. Nodes that nothing reads must be gone;
    shapes in `meta` are not updated.
    """
    # A gather that is gone may have hidden another behind it.
    changed = True
    while changed:
        changed = _drop(module)


def _drop(module: fx.GraphModule) -> bool:
    """Narrow every convolution once; return whether any was."""
    changed = False
    calls = Counter(node.target for node in module.graph.nodes if node.op == "call_module")
    for node in list(module.graph.nodes):
        conv = module_of(module, node)
        if not isinstance(conv, nn.Conv2d) or _is_depthwise(conv) or calls[node.target] > 1:
            continue
        readers = _readers(module, node, calls)
        selects = [select for reader in readers if isinstance(select := module_of(module, reader), ChannelSelect)]
        positions = _positions(conv, [select.index for select in selects]) if selects else None
        if positions is not None:
            _narrow(module, [node, *readers], positions, conv.out_channels)
            changed = True
    return changed


def _readers(module: fx.GraphModule, node: fx.Node, calls: Counter[object]) -> list[fx.Node]:
    """Return the nodes between a convolution and the gathers that end every path from it, those included; none where
    something else reads it, or a module with parameters has another caller.
    """
    found: list[fx.Node] = []
    waiting = list(node.users)
    while waiting:
        user = waiting.pop()
        child = module_of(module, user)
        found.append(user)
        own = calls[user.target] == 1 and (isinstance(child, PER_CHANNEL) or _is_depthwise(child))
        if own or isinstance(child, _KEEPS_CHANNELS):
            waiting += user.users
        elif not isinstance(child, ChannelSelect):
            return []
    return found


def _is_depthwise(module: nn.Module | None) -> bool:
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels == module.out_channels


def _positions(conv: nn.Conv2d, reads: list[Tensor]) -> Tensor | None:
    """Return which output channels to compute and in what order, int64; None to leave all as they are."""
    alive = torch.zeros(conv.out_channels, dtype=torch.bool)
    for index in reads:
        alive[index] = True
    if conv.groups == 1:
        once = len(reads) == 1 and len(reads[0]) == int(alive.sum())
        positions = reads[0] if once else alive.nonzero().flatten()
        return None if torch.equal(positions, torch.arange(conv.out_channels)) else positions
    rows = alive.reshape(conv.groups, -1)
    width = -(-int(rows.sum(1).max()) // CHANNEL_BLOCK) * CHANNEL_BLOCK
    if width >= rows.shape[1]:
        return None
    # A group that has fewer alive fills up with some that are not.
    chosen = torch.argsort(rows, dim=1, descending=True, stable=True)[:, :width].sort(1).values
    return (chosen + torch.arange(conv.groups)[:, None] * rows.shape[1]).flatten()


def _narrow(module: fx.GraphModule, nodes: list[fx.Node], positions: Tensor, channels: int) -> None:
    """Keep `positions` of the channels in all modules that `nodes` call, and renumber what the gathers read."""
    rank = torch.empty(channels, dtype=torch.int64)
    rank[positions] = torch.arange(len(positions))
    for node in nodes:
        child = module.get_submodule(str(node.target))
        if not isinstance(child, ChannelSelect):
            _take(child, positions)
        elif torch.equal(index := rank[child.index], torch.arange(len(positions))):
            node.replace_all_uses_with(node.all_input_nodes[0])
            node.graph.erase_node(node)
        else:
            module.set_submodule(str(node.target), ChannelSelect(index))


def _take(module: nn.Module, positions: Tensor) -> None:
    """Keep `positions` of every tensor with a row for each output channel, and the channel counts in step."""
    depthwise = _is_depthwise(module)
    for name in ("weight", "bias", "running_mean", "running_var"):
        if isinstance(tensor := getattr(module, name, None), Tensor):
            new = tensor.detach()[positions.to(tensor.device)]
            setattr(module, name, nn.Parameter(new) if isinstance(tensor, nn.Parameter) else new)
    if isinstance(module, nn.Conv2d):
        module.out_channels = len(positions)
        if depthwise:
            module.in_channels = module.groups = len(positions)
    elif isinstance(module, PER_CHANNEL) and not isinstance(module, ChannelAffine):
        module.num_features = len(positions)
