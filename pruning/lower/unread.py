"""Output channels that no gather reads need not be computed, and can be computed in the order in which they are read.

Random masks of a quarter of the inputs leave, between two convolutions of 64 and 128 channels, three of four and more
than every second channel unread.
"""

from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from pruning.modules import PER_CHANNEL, ChannelAffine, ChannelSelect
from pruning.nodes import module_of

CHANNEL_BLOCK = 16
"""Groups of a multiple of this many channels suit the vector units of every runtime; others may run much slower."""
ALIGNED = 4
"""Without groups, a multiple of this is enough, but matters: a depthwise convolution of 66 channels took several times what one of 68 takes
(ONNX Runtime, which leaves its blocked layout there).
"""
_KEEPS_CHANNELS = (
    nn.ReLU, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.GELU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Identity, nn.Dropout,
    nn.MaxPool2d, nn.AvgPool2d,
)  # fmt: skip
"""Modules without parameters that treat every channel by itself and alike."""


def drop_unread(module: fx.GraphModule) -> None:
    """Compute only the channels that are read, where every reader of a convolution is a `ChannelSelect`.

    BatchNorm, activations, pooling and depthwise convolutions may stand between. What is computed is a whole number of
    `ALIGNED`, or of `CHANNEL_BLOCK` in every group, or all: unread channels fill it up. A convolution of one group whose only reader
    names each channel at most once delivers them in that order, and the gather is gone; the reader, if it has one group, too,
    reads what fills them up with weight zero. Nodes that nothing reads must be gone; shapes in `meta` are not updated.
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
        between = _readers(module, node, calls)
        selects = [reader for reader in between if isinstance(module_of(module, reader), ChannelSelect)]
        if conv.groups == 1 and len(selects) == 1:
            _fill_list(module, selects[0], conv.out_channels, calls)
        reads = [_index(module, select) for select in selects]
        whole = torch.arange(conv.out_channels)
        aligned = any(_is_depthwise(module_of(module, reader)) for reader in between)
        positions = _positions(conv, reads, aligned=aligned) if reads else whole
        if not torch.equal(positions, whole) or any(torch.equal(index, whole) for index in reads):
            _narrow(module, [node, *between], positions, conv.out_channels)
            changed = True
    return changed


def _fill_list(module: fx.GraphModule, select: fx.Node, channels: int, calls: Counter[object]) -> None:
    """Let a list that names each of `channels` at most once name a whole number of `ALIGNED`, if what reads it can ignore some."""
    index = _index(module, select)
    reader, *others = select.users
    conv = module_of(module, reader)
    if others or not isinstance(conv, nn.Conv2d) or conv.groups > 1 or calls[reader.target] > 1:
        return
    if len(set(index.tolist())) == len(index) < len(filled := _filled(index, channels)):
        weight = functional.pad(conv.weight.detach(), (0, 0, 0, 0, 0, len(filled) - len(index)))
        conv.weight, conv.in_channels = nn.Parameter(weight), len(filled)
        module.set_submodule(str(select.target), ChannelSelect(filled))


def _index(module: fx.GraphModule, node: fx.Node) -> Tensor:
    select = module_of(module, node)
    assert isinstance(select, ChannelSelect)
    return select.index


def _filled(chosen: Tensor, channels: int) -> Tensor:
    """Return `chosen` and after it the first of the others, up to a whole number of `ALIGNED` or all `channels`, int64."""
    others = torch.ones(channels, dtype=torch.bool)
    others[chosen] = False
    return torch.cat([chosen, others.nonzero().flatten()[: -len(chosen) % ALIGNED]])


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


def _positions(conv: nn.Conv2d, reads: list[Tensor], *, aligned: bool) -> Tensor:
    """Return which output channels to compute and in what order, int64; where `aligned`, a whole number of `ALIGNED` matters more than
    the order.
    """
    alive = torch.zeros(conv.out_channels, dtype=torch.bool)
    for index in reads:
        alive[index] = True
    if conv.groups == 1:
        read = alive.nonzero().flatten()
        once = len(reads) == 1 and len(reads[0]) == len(read)
        filled = _filled(read, conv.out_channels).sort().values
        return reads[0] if once and not (aligned and len(filled) > len(read)) else filled
    rows = alive.reshape(conv.groups, -1)
    width = min(-(-int(rows.sum(1).max()) // CHANNEL_BLOCK) * CHANNEL_BLOCK, rows.shape[1])
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
