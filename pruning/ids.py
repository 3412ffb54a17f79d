"""Channel identities: which channels of a network live and die together, found by running the network on ids.

Every tensor is replaced by an integer tensor of its own shape (batch 1) that says which channel each element is of.
Moves (views, slices, transposes, concatenation) are the very same PyTorch calls on those integers; convolutions make
new ids; element-wise sums and products equate ids; an operator that is not known to act on channels one by one freezes
what it touches.
"""

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from pruning.labels import components, shrunk, varying_axes
from pruning.ledger import CONSTANT, Ledger
from pruning.modules import ChannelPad, ChannelSelect
from pruning.network import Network
from pruning.vocabulary import (
    CONVOLUTIONS,
    CUTS,
    ELEMENTWISE,
    LITERAL,
    LITERAL_METHODS,
    NORMALISING,
    REDUCTIONS,
    SPATIAL,
    UNARY,
)

_MIXES = "does not treat channels one by one"


@dataclass(frozen=True, kw_only=True)
class Identities:
    """What running a network on ids tells. A label names a class of coupled ids (its smallest id)."""

    tensors: dict[str, Tensor]
    """Label of every element of every tensor, int64 of the tensor's shape at batch 1, by node name."""
    slots: dict[tuple[str, str], np.ndarray]
    """Labels int64 [positions] along each (module, axis), in graph order; axes as in `Slot`."""
    frozen: dict[int, str]
    """Labels that must stay dense, with the reason."""
    fixed: frozenset[int]
    """Labels of the network's input, constants and logits."""


def identify(network: Network) -> Identities:
    """Run `network` on ids and return the coupled classes."""
    run = _Run(network)
    channels = network.input_shape[0]
    image = run.fresh(channels).reshape(1, channels, 1, 1).expand(1, *network.input_shape)
    run.run(image)
    run.check_shared()
    label = components(run.num_ids, run.edges)
    run.check_cuts(label)
    output = run.tensors[run.output_name]
    fixed = {int(label[i]) for i in (CONSTANT, *torch.unique(image).tolist(), *torch.unique(output).tolist())}
    frozen: dict[int, str] = {}
    for ids, reason in run.freezes:
        for one in np.unique(label[ids]).tolist():
            frozen.setdefault(one, reason)
    table = torch.from_numpy(label)
    return Identities(
        tensors={name: table[shrunk(ids)].expand(ids.shape) for name, ids in run.tensors.items()},
        slots={key: label[ids] for key, ids in run.slots.items()},
        frozen=frozen,
        fixed=frozenset(fixed),
    )


class _Parts(dict[Any, Tensor]):
    """Ids of the tensors that an operator of unknown effect gives, by index or field."""


class _Run(Ledger):
    """One pass over the graph."""

    def run_node(self, n: fx.Node) -> Any:
        self.node = n
        result = super().run_node(n)
        if isinstance(result, Tensor) and n.op != "output":
            if tuple(result.shape) != n.meta["shape"]:
                result = self.unknown(*self.fetch_args_kwargs_from_env(n))
            if len(varying_axes(result)) > 1:
                self.freeze(result, "spreads channels over more than one axis")
                result = self.opaque(tuple(result.shape))
            self.tensors[n.name] = result
        elif n.op == "output":
            self.output_name = str(n.args[0])
        return result

    def shaped(self, channels: Tensor, axis: int) -> Tensor:
        """Return `channels` along `axis` of this node's shape, constant elsewhere."""
        shape = self.node.meta["shape"]
        view = [1] * len(shape)
        view[axis] = -1
        return channels.reshape(view).expand(shape)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().get_attr(target, args, kwargs)
        return torch.full((), CONSTANT).expand(value.shape) if isinstance(value, Tensor) else value

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        return super().call_method(target, args, kwargs) if target in LITERAL_METHODS else self.unknown(args, kwargs)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if args and isinstance(args[0], _Parts):
            return args[0].get(args[1])
        try:
            return self.known(target, args, kwargs)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            # An argument the rules do not know (a dtype, an `out`), or that means nothing for ids.
            return self.unknown(args, kwargs)

    def known(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return the ids of what a function gives."""
        if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves((args, kwargs))):
            result = target(*args, **kwargs)
            return torch.full((), CONSTANT).expand(result.shape) if isinstance(result, Tensor) else result
        if target in LITERAL:
            result = target(*args, **kwargs)
            if target in CUTS and isinstance(args[0], Tensor):
                self.cut(args[0], [part for part in pytree.tree_leaves(result) if isinstance(part, Tensor)])
            return result
        if target is torch.cat:
            return self.concatenated(*args, **kwargs)
        if target in (operator.add, operator.sub, operator.mul) or (
            target is operator.truediv and not isinstance(args[1], Tensor)
        ):
            return self.combined(*args)
        if target in REDUCTIONS and isinstance(args[0], Tensor):
            return self.reduced(*args, **kwargs)
        if target in UNARY or (
            target in (operator.pow, torch.pow) and isinstance(args[1], int | float) and args[1] > 0
        ):
            return args[0]
        if (
            target in (functional.pad, functional.interpolate)
            and args[0].ndim == 4
            and args[0].shape[1] == self.node.meta["shape"][1]
        ):
            return self.shaped(self.along(args[0], 1), 1)
        return self.unknown(args, kwargs)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module, x = self.fetch_attr(target), next(iter(args), None)
        if kwargs or len(args) != 1 or not isinstance(x, Tensor) or "shape" not in self.node.meta:
            return self.unknown(args, kwargs)
        if isinstance(module, CONVOLUTIONS):
            return self.convolved(module, x)
        if isinstance(module, nn.Linear):
            self.slot("in", self.along(x, -1))
            return self.born(module.out_features, -1)
        if isinstance(module, NORMALISING) or (isinstance(module, nn.PReLU) and module.num_parameters > 1):
            self.slot("channel", self.along(x, 1))
            return x
        if isinstance(module, (*ELEMENTWISE, nn.PReLU)):
            return x
        if isinstance(module, SPATIAL):
            return self.shaped(self.along(x, 1), 1)
        if isinstance(module, nn.Flatten):
            return module(x)
        if isinstance(module, ChannelSelect):
            return x.index_select(1, module.index.cpu())
        if isinstance(module, ChannelPad):
            self.along(x, 1)
            return self.shaped(self.fresh(len(module.index)), 1)
        return self.unknown(args, kwargs)

    def born(self, count: int, axis: int) -> Tensor:
        ids = self.fresh(count)
        self.slot("out", ids)
        return self.shaped(torch.from_numpy(self.slots[(str(self.node.target), "out")]), axis)

    def convolved(self, conv: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
        read = self.along(x, 1)
        if conv.groups > 1 and conv.groups == conv.in_channels:
            ids = read.repeat_interleave(conv.out_channels // conv.groups)
            self.slot("channel", ids)
            return self.shaped(ids, 1)
        self.slot("in", read)
        out = self.born(conv.out_channels, 1)
        if conv.groups > 1:
            # Every convolution group keeps the same number of channels: channel k of one goes with channel k of all.
            for ids in (read, self.along(out, 1)):
                grid = ids.reshape(conv.groups, -1)
                self.equate(grid[:1].expand_as(grid), grid)
        return out

    def combined(self, one: Any, other: Any) -> Tensor:
        """Sum, difference or product: broadcast as PyTorch does, then equate element by element."""
        if not isinstance(one, Tensor) or not isinstance(other, Tensor):
            return one if isinstance(one, Tensor) else other
        shape = np.broadcast_shapes(one.shape, other.shape)
        wide = [x.reshape((1,) * (len(shape) - x.ndim) + tuple(x.shape)) for x in (one, other)]
        varying = [varying_axes(x) for x in wide]
        for a, b in ((0, 1), (1, 0)):
            constant = bool((shrunk(wide[a]) == CONSTANT).all())
            stretched = any(wide[a].shape[d] == 1 for d in varying[b] if shape[d] > 1)
            if constant and not stretched and varying[b]:
                self.freeze(wide[b], "combines the channels with a fixed tensor")
            elif stretched and not constant:
                self.freeze(wide[a], "spreads one channel over many")
            if constant or stretched:
                return wide[b].expand(shape)
        left, right = shrunk(wide[0]), shrunk(wide[1])
        small = np.broadcast_shapes(left.shape, right.shape)
        self.equate(left.expand(small), right.expand(small))
        return torch.where(left == CONSTANT, right, left).expand(shape)

    def concatenated(self, tensors: Any, dim: int = 0) -> Tensor:
        parts = [shrunk(x, but=dim) for x in tensors]
        ndim = parts[0].ndim
        sizes = [max(p.shape[d] for p in parts) for d in range(ndim)]
        axis = dim % ndim
        wide = [p.expand([p.shape[d] if d == axis else sizes[d] for d in range(ndim)]) for p in parts]
        return torch.cat(wide, axis).expand(self.node.meta["shape"])

    def reduced(self, x: Tensor, dim: Any = None, keepdim: bool = False, **_: Any) -> Tensor:
        dims = range(x.ndim) if dim is None else [d % x.ndim for d in ([dim] if isinstance(dim, int) else dim)]
        if varying_axes(x) & set(dims):
            return self.unknown((x,), {})  # type: ignore[no-any-return]
        for d in sorted(dims, reverse=True):
            x = x.narrow(d, 0, 1) if keepdim else x.select(d, 0)
        return x

    def unknown(self, args: Any, kwargs: Any) -> Any:
        """Freeze everything the operator reads; its results are frozen too."""
        read = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for x in read:
            self.freeze(x, _MIXES)
        if "shape" in self.node.meta:
            same = [x for x in read if tuple(x.shape) == self.node.meta["shape"]]
            return same[0] if len(same) == 1 else self.opaque(self.node.meta["shape"])
        picks = {
            user.args[1]: user.meta["shape"]
            for user in self.node.users
            if user.target in (operator.getitem, getattr) and "shape" in user.meta
        }
        return _Parts({index: self.opaque(shape) for index, shape in picks.items()})

    def opaque(self, shape: tuple[int, ...]) -> Tensor:
        if not shape:
            return torch.full((), CONSTANT)
        axis = 1 if len(shape) in (2, 4) else len(shape) - 1
        ids = self.fresh(shape[axis])
        self.freeze(ids, _MIXES)
        view = [1] * len(shape)
        view[axis] = -1
        return ids.reshape(view).expand(shape)
