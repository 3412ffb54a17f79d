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
from torchvision.ops import StochasticDepth

from pruning.labels import components, shrunk, varying_axes
from pruning.modules import PER_CHANNEL, ChannelPad, ChannelSelect
from pruning.network import Network

CONSTANT = 0
"""The id of everything that is no channel: parameters used as tensors, and what was frozen beyond telling apart."""
_LITERAL = {
    torch.reshape, torch.flatten, torch.permute, torch.transpose, torch.squeeze, torch.unsqueeze, torch.narrow,
    torch.chunk, torch.split, torch.tensor_split, torch.unbind, operator.getitem, getattr,
}  # fmt: skip
_LITERAL_METHODS = {"size", "dim", "expand"}
_UNARY = {torch.clamp, torch.abs, torch.neg, operator.neg, torch.square}
_REDUCTIONS = {torch.mean, torch.sum, torch.amax, torch.amin}
_ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.SiLU, nn.Mish, nn.GELU, nn.ELU, nn.LeakyReLU,
    nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Identity, nn.Dropout, nn.Dropout2d, StochasticDepth,
)  # fmt: skip
_SPATIAL = (
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample, nn.ZeroPad2d, nn.LPPool2d,
)  # fmt: skip
_MIXES = "does not treat channels one by one"
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


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
    label = components(run.num_ids, run.edges)
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


class _Run(fx.Interpreter):
    """One pass over the graph; collects pairs of equal ids instead of merging them: merging is one vectorised step."""

    def __init__(self, network: Network) -> None:
        super().__init__(network.module)
        self.network = network
        self.num_ids = CONSTANT + 1
        self.edges: list[np.ndarray] = []
        self.freezes: list[tuple[np.ndarray, str]] = []
        self.slots: dict[tuple[str, str], np.ndarray] = {}
        self.tensors: dict[str, Tensor] = {}
        self.output_name = ""
        self.node: fx.Node

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

    def fresh(self, count: int) -> Tensor:
        self.num_ids += count
        return torch.arange(self.num_ids - count, self.num_ids)

    def equate(self, one: Tensor, other: Tensor) -> None:
        pairs = np.stack([one.reshape(-1).numpy(), other.reshape(-1).numpy()])
        pairs = np.unique(pairs[:, pairs[0] != pairs[1]], axis=1)
        constant = (pairs == CONSTANT).any(axis=0)
        if constant.any():
            self.freeze(torch.from_numpy(pairs[:, constant].max(axis=0)), "combines the channels with a fixed tensor")
        self.edges.append(pairs[:, ~constant])

    def freeze(self, ids: Tensor, why: str) -> None:
        target = self.node.target
        if self.node.op == "call_module":
            name = type(self.fetch_attr(str(target))).__name__
        else:
            name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        self.freezes.append((torch.unique(shrunk(ids)).numpy(), f"{name} `{self.node.name}` {why}"))

    def slot(self, axis: str, ids: Tensor) -> None:
        key = (str(self.node.target), axis)
        if key in self.slots:  # the same module called again: its channels are one and the same
            self.equate(torch.from_numpy(self.slots[key]), ids)
        else:
            self.slots[key] = ids.numpy().copy()

    def shaped(self, channels: Tensor, axis: int) -> Tensor:
        """Return `channels` along `axis` of this node's shape, constant elsewhere."""
        shape = self.node.meta["shape"]
        view = [1] * len(shape)
        view[axis] = -1
        return channels.reshape(view).expand(shape)

    def along(self, x: Tensor, axis: int) -> Tensor:
        """Return the ids of `x` along `axis`; where they are not constant elsewhere, everything is frozen first."""
        if not varying_axes(x) <= {axis % x.ndim}:
            self.freeze(x, "reads channels that lie on another axis")
            return torch.full((x.shape[axis],), CONSTANT)
        return x[tuple(slice(None) if d == axis % x.ndim else 0 for d in range(x.ndim))]

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().get_attr(target, args, kwargs)
        return torch.full((), CONSTANT).expand(value.shape) if isinstance(value, Tensor) else value

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        return super().call_method(target, args, kwargs) if target in _LITERAL_METHODS else self.unknown(args, kwargs)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in _LITERAL or not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves((args, kwargs))):
            return target(*args, **kwargs)
        if target is torch.cat:
            return self.concatenated(*args, **kwargs)
        if target in (operator.add, operator.sub, operator.mul) or (
            target is operator.truediv and not isinstance(args[1], Tensor)
        ):
            return self.combined(*args)
        if target in _REDUCTIONS and isinstance(args[0], Tensor):
            return self.reduced(*args, **kwargs)
        if target in _UNARY:
            return args[0]
        if (
            target in (functional.pad, functional.interpolate)
            and args[0].ndim == 4
            and args[0].shape[1] == self.node.meta["shape"][1]
        ):
            return self.shaped(self.along(args[0], 1), 1)
        return self.unknown(args, kwargs)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module, x = self.fetch_attr(target), args[0]
        if isinstance(module, _CONVS) and not kwargs:
            return self.convolved(module, x)
        if isinstance(module, nn.Linear):
            self.slot("in", self.along(x, -1))
            return self.born(module.out_features, -1)
        if isinstance(module, PER_CHANNEL) or (isinstance(module, nn.PReLU) and module.num_parameters > 1):
            self.slot("channel", self.along(x, 1))
            return x
        if isinstance(module, (*_ELEMENTWISE, nn.PReLU)):
            return x
        if isinstance(module, _SPATIAL):
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
            if user.target is operator.getitem and "shape" in user.meta
        }
        return {index: self.opaque(shape) for index, shape in picks.items()}

    def opaque(self, shape: tuple[int, ...]) -> Tensor:
        if not shape:
            return torch.full((), CONSTANT)
        axis = 1 if len(shape) in (2, 4) else len(shape) - 1
        ids = self.fresh(shape[axis])
        self.freeze(ids, _MIXES)
        view = [1] * len(shape)
        view[axis] = -1
        return ids.reshape(view).expand(shape)
