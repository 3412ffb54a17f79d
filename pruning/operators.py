"""The operators of a network that cost time, fused as a runtime fuses them, with channel counts by widths."""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torchvision.ops import StochasticDepth

from lut.signature import OpSignature
from pruning.groups import Coupling, coupling_of
from pruning.modules import PER_CHANNEL, ChannelGather
from pruning.network import CouplingGroup, Network, Operator
from pruning.nodes import module_of
from pruning.trace import output_node

_ACTIVATIONS: dict[type, str] = {
    nn.ReLU: "relu", nn.ReLU6: "relu6", nn.Hardswish: "hardswish", nn.Hardsigmoid: "hardsigmoid", nn.SiLU: "silu",
    nn.Sigmoid: "sigmoid", nn.GELU: "gelu", nn.LeakyReLU: "leaky_relu", nn.PReLU: "leaky_relu", nn.ELU: "elu",
    nn.Tanh: "tanh", nn.Softmax: "softmax", nn.LogSoftmax: "softmax", nn.Hardtanh: "relu6",
}  # fmt: skip
_FREE_FUNCTIONS = {
    torch.reshape, torch.flatten, torch.squeeze, torch.unsqueeze, torch.permute, torch.transpose, operator.getitem,
    getattr, torch.chunk, torch.split, torch.tensor_split, torch.unbind, "expand", "size",
}  # fmt: skip
_FREE_MODULES = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten, StochasticDepth)
_ADDS, _MEANS = (operator.add, operator.sub), (torch.mean,)


def operators(network: Network, groups: Sequence[CouplingGroup]) -> tuple[Operator, ...]:
    """Return what costs time and what a latency table can price, in graph order.

    BatchNorm is folded into the convolution or linear layer it follows, activations fuse with what they follow, sums
    with a convolution or channel gather among their operands (see `OpSignature.residual`). Channel counts depend on
    prunable groups only: what is frozen counts as fixed.
    """
    return tuple(_Walk(network.module, coupling_of(network), {group.id for group in groups}).all())


def unpriced(network: Network, groups: Sequence[CouplingGroup]) -> tuple[str, ...]:
    """Return the names of nodes that compute something no latency table has a kind for (attention, LayerNorm, ...)."""
    walk = _Walk(network.module, coupling_of(network), {group.id for group in groups})
    list(walk.all())
    return tuple(walk.unpriced)


@dataclass
class _Walk:
    """One pass over the graph; `absorbed` holds the nodes that an earlier operator computes along."""

    module: fx.GraphModule
    coupling: Coupling
    group_ids: set[str]
    absorbed: set[fx.Node] = field(default_factory=set)
    unpriced: list[str] = field(default_factory=list)

    def all(self) -> Iterator[Operator]:
        graph = self.module.graph
        self._absorb_sums(graph)
        for node in graph.nodes:
            if not node.op.startswith("call_") or node in self.absorbed:
                continue
            if "shape" in node.meta:
                found = self._operator(node)
                if found is not None:
                    yield found
            elif node.target not in _FREE_FUNCTIONS:  # attention gives its result in a tuple
                self.unpriced.append(node.name)

    def _absorb_sums(self, graph: fx.Graph) -> None:
        """Decide which operand of every sum computes it: a channel gather first, then the first convolution."""
        self.sums: dict[fx.Node, fx.Node] = {}
        for node in graph.nodes:
            operands = [a for a in node.args if isinstance(a, fx.Node) and "shape" in a.meta]
            if (
                node.target is not operator.add
                or len(operands) != 2
                or operands[0].meta["shape"] != operands[1].meta["shape"]
            ):
                continue
            ends = [a for a in operands if len(a.users) == 1]
            gathers = [a for a in ends if isinstance(self._module(a), ChannelGather)]
            convs = [c for a in ends if (c := self._convolution_before(a)) is not None]
            if chosen := (gathers or convs)[:1]:
                self.sums[chosen[0]] = node
                self.absorbed.add(node)

    def _convolution_before(self, node: fx.Node) -> fx.Node | None:
        """Return the convolution that delivers `node` itself or through a BatchNorm that folds into it."""
        if isinstance(self._module(node), PER_CHANNEL) and len(node.all_input_nodes[0].users) == 1:
            node = node.all_input_nodes[0]
        return node if isinstance(self._module(node), nn.Conv2d) else None

    def _module(self, node: fx.Node) -> nn.Module | None:
        return module_of(self.module, node)

    def _operator(self, node: fx.Node) -> Operator | None:
        module, shape = self._module(node), node.meta["shape"]
        inputs = [a for a in node.all_input_nodes if "shape" in a.meta]
        source = inputs[0] if inputs else node
        if isinstance(module, nn.Conv2d):
            return self._weighted(node, source, **_convolution(module, source.meta["shape"]))
        if isinstance(module, nn.Linear):
            area = source.meta["shape"][1:-1]
            height, width = (*area, 1, 1)[:2] if len(area) <= 2 else (int(torch.Size(area).numel()), 1)
            return self._weighted(node, source, kind="linear", height=height, width=width, bias=module.bias is not None)
        if isinstance(module, ChannelGather):
            return self._gather(node, source)
        if isinstance(module, PER_CHANNEL):
            return self._plain(node, node, "batch_norm", activates=True)
        if type(module) in _ACTIVATIONS:
            return self._plain(node, node, "activation", activation=_ACTIVATIONS[type(module)])
        if pool := _pool(node, module, source.meta["shape"]):
            return self._plain(node, source, **pool) if pool["kind"] else None
        if node.target in _ADDS and inputs:
            return self._plain(node, node, "add", activates=True)
        if node.target is operator.mul and inputs:
            whole = len(inputs) == 2 and inputs[0].meta["shape"] == inputs[1].meta["shape"]
            return self._plain(node, node, "mul", activates=True, residual=whole)
        if node.target is torch.cat and _is_map(shape):
            return self._plain(node, node, "concat")
        if node.target not in _FREE_FUNCTIONS and not isinstance(module, _FREE_MODULES):
            self.unpriced.append(node.name)
        return None

    def _weighted(self, node: fx.Node, source: fx.Node, *, kind: str, bias: bool, **fields: Any) -> Operator:
        """A convolution or linear layer with the BatchNorm, the sum and the activation after it."""
        last = node
        norm = self._only_user(node)
        if norm is not None and isinstance(self._module(norm), PER_CHANNEL):
            self.absorbed.add(norm)
            last, bias = norm, True
        residual = node in self.sums
        activation = self._fused(self.sums[node] if residual else last)
        signature = OpSignature(kind=kind, bias=bias, activation=activation, residual=residual, **fields)
        axis = -1 if kind == "linear" else 1
        c_out = self.coupling.channels(node.name, axis)
        c_in = c_out if kind == "depthwise" else self.coupling.channels(source.name, axis)
        return Operator(name=node.name, signature=signature, c_in=c_in, c_out=c_out)

    def _gather(self, node: fx.Node, source: fx.Node) -> Operator:
        stride = (1, 1)
        if source.target is operator.getitem and len(source.users) == 1:
            stride = _steps(source.args[1])
            source = source.all_input_nodes[0]
        residual = node in self.sums
        activation = self._fused(self.sums[node]) if residual else ""
        height, width = _area(source.meta["shape"], 1)
        signature = OpSignature(
            kind="gather",
            height=height,
            width=width,
            stride=stride,
            bias=False,
            residual=residual,
            activation=activation,
        )
        c_in, c_out = self.coupling.channels(source.name), self.coupling.channels(node.name)
        return Operator(name=node.name, signature=signature, c_in=c_in, c_out=c_out)

    def _plain(
        self, node: fx.Node, measured: fx.Node, kind: str, *, activates: bool = False, **fields: Any
    ) -> Operator:
        """An operator that keeps its channels; `measured` is the node whose map sets its size."""
        if activates:
            fields["activation"] = self._fused(node)
        height, width = _area(measured.meta["shape"], self.coupling.axis(measured.name))
        signature = OpSignature(kind=kind, height=height, width=width, bias=False, **fields)
        channels = self.coupling.channels(node.name)
        return Operator(name=node.name, signature=signature, c_in=channels, c_out=channels)

    def _fused(self, node: fx.Node) -> str:
        """Return the activation that is the only reader of `node`, and mark it as computed."""
        user = self._only_user(node)
        if (
            user is None
            or type(module := self._module(user)) not in _ACTIVATIONS
            or isinstance(module, nn.Softmax | nn.LogSoftmax)
        ):
            return ""
        self.absorbed.add(user)
        return _ACTIVATIONS[type(module)]

    def _only_user(self, node: fx.Node) -> fx.Node | None:
        return next(iter(node.users)) if len(node.users) == 1 and node is not output_node(self.module) else None


def _convolution(conv: nn.Conv2d, shape: tuple[int, ...]) -> dict[str, Any]:
    depthwise = conv.groups > 1 and conv.groups == conv.in_channels
    kernel, dilation = _pair(conv.kernel_size), _pair(conv.dilation)
    if conv.padding == "same":
        padding = tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
    else:
        padding = (0, 0) if conv.padding == "valid" else _pair(conv.padding)
    return {
        "kind": "depthwise" if depthwise else "conv",
        "height": shape[2],
        "width": shape[3],
        "kernel": kernel,
        "stride": _pair(conv.stride),
        "padding": padding,
        "dilation": dilation,
        "groups": 1 if depthwise else conv.groups,
        "bias": conv.bias is not None,
    }


def _pool(node: fx.Node, module: nn.Module | None, before: tuple[int, ...]) -> dict[str, Any]:
    """Return the signature fields of a pooling operator (kind empty for one that changes nothing), or nothing."""
    after = node.meta["shape"]
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        kernel = _pair(module.kernel_size)
        if not any(_pair(module.padding)) and kernel == before[2:] and isinstance(module, nn.AvgPool2d):
            return {"kind": "global_pool"}
        window = {"kernel": kernel, "stride": _pair(module.stride or kernel), "padding": _pair(module.padding)}
        if isinstance(module, nn.MaxPool2d):
            return {"kind": "max_pool", "dilation": _pair(module.dilation), **window}
        return {"kind": "avg_pool", **window}
    if isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
        average = isinstance(module, nn.AdaptiveAvgPool2d)
        if before == after:
            return {"kind": ""}
        if average and after[2:] == (1, 1):
            return {"kind": "global_pool"}
        stride = tuple(max(1, b // a) for b, a in zip(before[2:], after[2:], strict=True))
        return {"kind": "avg_pool" if average else "max_pool", "kernel": stride, "stride": stride}
    if node.target in _MEANS and len(before) == 4 and len(after) in (2, 4) and after[:2] == before[:2]:
        return {"kind": "global_pool"}
    return {}


def _steps(index: Any) -> tuple[int, int]:
    """Return the strides over height and width of a subscript such as `[:, :, ::2, ::2]`."""
    steps = [part.step or 1 for part in index if isinstance(part, slice)] if isinstance(index, tuple) else []
    return (steps[2], steps[3]) if len(steps) == 4 else (1, 1)


def _is_map(shape: tuple[int, ...]) -> bool:
    return len(shape) in (2, 4)


def _area(shape: tuple[int, ...], axis: int) -> tuple[int, int]:
    """Return (height, width) of a map whose channels lie along `axis`; a sequence of tokens is as high as it is long."""
    sizes = [size for d, size in enumerate(shape) if d not in (0, axis)]
    return (sizes[0], sizes[1]) if len(sizes) == 2 else (int(torch.Size(sizes).numel()), 1)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
