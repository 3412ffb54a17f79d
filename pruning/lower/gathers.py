"""Gathers of a lowered network: as few of them as do the job."""

import torch
from torch import fx

from pruning.modules import ChannelGather, ChannelPad, ChannelSelect
from pruning.nodes import module_of, source


def merge_gathers(module: fx.GraphModule) -> None:
    """Read through a gather of a gather, share equal gathers of one tensor, drop a gather that changes nothing.

    Needs `meta["shape"]` of every tensor; what nothing reads any more is left for `tidy`.
    """
    known: dict[tuple[fx.Node, tuple[int, ...]], fx.Node] = {}
    for node in list(module.graph.nodes):
        gather = module_of(module, node)
        if not isinstance(gather, ChannelSelect):
            continue
        earlier = module_of(module, source(node))
        # A padding's zeros are channels of their own, and reading through it would copy them one by one.
        if isinstance(earlier, ChannelGather) and not isinstance(earlier, ChannelPad):
            gather = type(earlier)(earlier.index[gather.index])
            module.set_submodule(str(node.target), gather)
            node.args = (source(source(node)),)
        key = source(node), tuple(gather.index.tolist())
        if torch.equal(gather.index, torch.arange(source(node).meta["shape"][1], device=gather.index.device)):
            node.replace_all_uses_with(source(node))
        elif key in known:
            node.replace_all_uses_with(known[key])
        else:
            known[key] = node
