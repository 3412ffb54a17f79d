"""Rewrites masked layers of a traced network as a gather of input channels and a grouped convolution.

Letters: B = tile_out, R = block-rows, K = length of the longest list (`pruning.lower.lists`).
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from pruning.canonical import annotate, tidy
from pruning.lower.gathers import merge_gathers
from pruning.lower.lists import BlockRows, lists_of
from pruning.lower.unread import drop_unread
from pruning.masked import Masks, masked_copy
from pruning.modules import ChannelSelect
from pruning.network import Network
from pruning.nodes import module_of, source


def lower(network: Network, masks: Masks) -> Network:
    """Return a network with the outputs of `masked_copy(network, masks)` in which the masked layers do only the kept work.

    A layer becomes a gather of its lists of input channels, one after another, and a convolution with one group a
    block-row; short lists are filled up with channels of weight zero. A strided 1x1 convolution subsamples first, so
    that no pixel is gathered for nothing. A last block-row that is smaller gets a convolution of its own. A linear
    layer on vectors is a 1x1 convolution on one pixel. Then gathers are merged, and channels that no gather reads are
    not computed. Nodes and modules keep their names; the new ones are called after the layer. Layers that `kept_dense`
    names stay as they are, with masked weights.

    A mask whose output channels differ inside a block-row (element-wise N:M in tiles) is not lowered; give the mask of
    its tiles instead, with the weights masked already. Raises ValueError for a name that is no convolution or linear
    layer, or a mask that is not bool in the shape of its weight. Source: method, section 4.
    """
    reasons = kept_dense(network, masks)
    result = masked_copy(network, masks)
    module = result.module
    for node in list(module.graph.nodes):
        if node.op == "call_module" and node.target in masks and node.target not in reasons:
            rows = lists_of(masks[str(node.target)])
            assert rows is not None
            _rewrite(module, node, rows)
    tidy(module)
    annotate(module, network.input_shape)
    merge_gathers(module)
    tidy(module)
    drop_unread(module)
    tidy(module)
    annotate(module, network.input_shape)
    return result


def kept_dense(network: Network, masks: Masks) -> dict[str, str]:
    """Return the layers of `masks` that `lower` leaves as they are, each with the reason. Errors as in `lower`."""
    layers = dict(network.module.named_modules())
    for name, mask in masks.items():
        layer = layers.get(name)
        if not isinstance(layer, nn.Conv2d | nn.Linear) or layer.weight.shape != mask.shape:
            raise ValueError(f"no convolution or linear layer `{name}` with a weight of shape {list(mask.shape)}")
    calls: dict[str, list[fx.Node]] = {}
    for node in network.module.graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    reasons = {name: _reason(layers[name], calls.get(name, []), mask) for name, mask in masks.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def _reason(layer: nn.Module, calls: list[fx.Node], mask: Tensor) -> str:
    if len(calls) != 1:
        return f"the network calls it {len(calls)} times"
    if isinstance(layer, nn.Linear) and len(calls[0].meta["shape"]) != 2:
        return "a linear layer on a map of vectors"
    if isinstance(layer, nn.Conv2d) and (layer.groups != 1 or layer.padding_mode != "zeros"):
        return "a convolution with groups of its own, or padded with other than zeros"
    rows = lists_of(mask)
    if rows is None:
        return "its output channels share no lists of input channels"
    return "it reads every input channel" if all(len(r) == mask.shape[1] for r in rows.lists) else ""


def _rewrite(module: fx.GraphModule, node: fx.Node, rows: BlockRows) -> None:
    """Replace the layer that `node` calls; whoever read it reads the same channels afterwards."""
    layer, x = module_of(module, node), source(node)
    linear = isinstance(layer, nn.Linear)
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    conv = _as_convolution(layer) if isinstance(layer, nn.Linear) else copy.copy(layer)
    with module.graph.inserting_before(node):
        if conv.kernel_size == (1, 1) and conv.stride != (1, 1) and conv.padding == (0, 0):
            x = _call(module, f"{node.name}_subsample", nn.MaxPool2d(1, conv.stride), x)
            conv.stride = (1, 1)
        whole = conv.out_channels // rows.tile_out
        gathered, grouped = _gathered(module, node.name, x, conv, rows, slice(0, whole), linear)
        module.set_submodule(str(node.target), grouped)
        node.args = (gathered,)
    last = node
    if whole < len(rows.lists):
        with module.graph.inserting_before(node):
            gathered, rest = _gathered(module, f"{node.name}_rest", x, conv, rows, slice(whole, whole + 1), linear)
            smaller = _call(module, f"{node.name}_rest", rest, gathered)
        last = _follow(last, torch.cat, lambda before: ((before, smaller), 1), "joined")
    if linear:
        _follow(last, torch.flatten, lambda before: (before, 1), "flat")


def _follow(node: fx.Node, function: Any, args: Callable[[fx.Node], tuple[Any, ...]], name: str) -> fx.Node:
    """Put a function behind `node`: what read `node` reads the function."""
    with node.graph.inserting_after(node):
        after = node.graph.create_node("call_function", function, args(node), name=f"{node.name}_{name}")
    node.replace_all_uses_with(after, delete_user_cb=lambda user: user is not after)
    return after


def _gathered(
    module: fx.GraphModule, name: str, x: fx.Node, conv: nn.Conv2d, rows: BlockRows, part: slice, vector: bool
) -> tuple[fx.Node, nn.Conv2d]:
    """Add the gather for block-rows `part`; return it (a pixel, where x is a vector) and the convolution to follow."""
    index, grouped = _grouped(conv, rows, part.start, part.stop)
    gathered = _call(module, f"{name}_gather", ChannelSelect(index), x)
    if vector:
        gathered = _call(module, f"{name}_pixel", nn.Unflatten(1, (len(index), 1, 1)), gathered)
    return gathered, grouped


def _call(module: fx.GraphModule, name: str, child: nn.Module, x: fx.Node) -> fx.Node:
    target = f"functions.{name}"
    module.add_submodule(target, child.eval())
    return module.graph.create_node("call_module", target, (x,), name=name)


def _as_convolution(layer: nn.Linear) -> nn.Conv2d:
    conv = nn.Conv2d(layer.in_features, layer.out_features, 1, bias=layer.bias is not None, device="meta")
    conv.weight = nn.Parameter(layer.weight.detach()[:, :, None, None])
    conv.bias = layer.bias
    return conv


def _grouped(conv: nn.Conv2d, rows: BlockRows, first: int, end: int) -> tuple[Tensor, nn.Conv2d]:
    """Return which input channels block-rows `first` to `end` want, int64 [R K], and the convolution that reads them."""
    lists, tile = rows.lists[first:end], rows.tile_out
    length = max(1, *(len(channels) for channels in lists))
    # What fills a short list has weight zero; that the layer reads it anyway keeps the filling from costing more.
    filler = next((int(channels[0]) for channels in lists if len(channels)), 0)
    index = torch.full((len(lists), length), filler)
    outputs = slice(first * tile, min(end * tile, conv.out_channels))
    old = conv.weight.detach()[outputs]
    weight = old.new_zeros(len(old), length, *conv.kernel_size)
    for row, channels in enumerate(lists):
        index[row, : len(channels)] = channels
        own = slice(row * tile, (row + 1) * tile)
        weight[own, : len(channels)] = old[own][:, channels.to(old.device)]
    window: dict[str, Any] = {
        "kernel_size": conv.kernel_size, "stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation
    }  # fmt: skip
    bias = conv.bias is not None
    grouped = nn.Conv2d(index.numel(), len(old), groups=len(lists), bias=bias, device="meta", **window)
    grouped.weight = nn.Parameter(weight)
    grouped.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach()[outputs])
    return index.flatten(), grouped.eval()
