"""Writes a traced network as an ONNX graph of a fixed batch size, node by node, with BatchNorm folded.

A walk of our own: the vocabulary of `pruning.canonical` is small, the result is deterministic, it takes milliseconds:
every candidate network can be exported and measured.
"""

from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, fx, nn
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops import StochasticDepth

from pruning.fold import folded_batch_norm
from pruning.modules import PER_CHANNEL, ChannelGather
from pruning.network import Network
from pruning.nodes import module_of, source
from pruning.onnx_functions import NoRule, Values
from pruning.onnx_layers import attention, pool

OPSET = 20
IR_VERSION = 10
INPUT, OUTPUT = "images", "logits"
_SIMPLE: dict[type[nn.Module], tuple[str, dict[str, Any]]] = {
    nn.ReLU: ("Relu", {}),
    nn.Hardswish: ("HardSwish", {}),
    nn.Hardsigmoid: ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    nn.Sigmoid: ("Sigmoid", {}),
    nn.Tanh: ("Tanh", {}),
    nn.Softplus: ("Softplus", {}),
    nn.Mish: ("Mish", {}),
}
_ALIASES = (nn.Identity, nn.Dropout, nn.Dropout2d, StochasticDepth)


def write(network: Network, batch: int) -> onnx.ModelProto:
    """Return `network` as an ONNX model: `images` float32 [batch, C, H, W] to `logits` float32 [batch, outputs].

    Raises NoRule for an operation outside the vocabulary.
    """
    walk = _Walk(network, batch)
    for node in network.module.graph.nodes:
        walk.visit(node)
    shapes = {INPUT: (batch, *network.input_shape), OUTPUT: (batch, network.num_outputs)}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(walk.out.nodes, "secateur", ends[:1], ends[1:], walk.out.weights)
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, producer_name="secateur", opset_imports=opsets, ir_version=IR_VERSION)


class _Walk(Values):
    """Emits one node after the other."""

    def visit(self, node: fx.Node) -> None:
        if node in self.values:  # a number, or a BatchNorm that its convolution has taken in
            return
        if node.op == "placeholder":
            self.values[node] = INPUT
        elif node.op == "output":
            self.out.node("Identity", [self.values[source(node)]], OUTPUT)
        elif node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            self.values[node] = self.out.weight(getattr(self.module.get_submodule(owner), name), str(node.target))
        elif (module := module_of(self.module, node)) is not None:
            self.values[node] = self.layer(node, module)
        else:
            self.values[node] = self.function(node)

    def layer(self, node: fx.Node, module: nn.Module) -> Any:
        several = node not in self.shapes and not isinstance(module, nn.MultiheadAttention)
        if several:
            raise NoRule(f"{type(module).__name__} `{node.name}`")
        x, before, out = self.values[source(node)], self.shapes[source(node)], self.out
        if isinstance(module, nn.MultiheadAttention):
            _check_plain(node, module)
            return (attention(out, module, x, before, node.name),)
        if isinstance(module, _ALIASES):
            return x
        if isinstance(module, nn.Flatten | nn.Unflatten):
            return out.reshape(x, self.shapes[node], node.name)
        for rule in (self.weighted, self.activation, self.norm, self.gather):
            result = rule(node, module, x)
            if result is not None:
                return result
        result = pool(out, module, x, before, self.shapes[node], node.name)
        if result is None:
            raise NoRule(f"{type(module).__name__} `{node.name}`")
        return result

    def weighted(self, node: fx.Node, module: nn.Module, x: str) -> str | None:
        """Emit a convolution or linear layer, or return None."""
        if isinstance(module, nn.Linear) and len(self.shapes[node]) != 2:
            product = self.out.node(
                "MatMul", [x, self.out.weight(module.weight.t(), f"{node.target}.weight")], node.name
            )
            if not _has_bias(module):
                return product
            return self.out.node(
                "Add", [product, self.out.weight(module.bias, f"{node.target}.bias")], f"{node.name}_sum"
            )
        if not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            return None
        weight, bias = self.folded(node, module)
        inputs = [x, self.out.weight(weight, f"{node.target}.weight")]
        inputs += [] if bias is None else [self.out.weight(bias, f"{node.target}.bias")]
        if isinstance(module, nn.Linear):
            return self.out.node("Gemm", inputs, node.name, transB=1)
        return self.out.node("Conv", inputs, node.name, **_window(node, module))

    def folded(self, node: fx.Node, module: nn.Conv1d | nn.Conv2d | nn.Linear) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias, a BatchNorm that is the only reader folded in; its node then has this value."""
        user = next(iter(node.users))
        norm = module_of(self.module, user)
        if len(node.users) == 1 and isinstance(norm, PER_CHANNEL):
            self.values[user] = node.name
            return folded_batch_norm(module.weight, module.bias, norm)
        return module.weight, module.bias

    def activation(self, node: fx.Node, module: nn.Module, x: str) -> str | None:
        """Emit an activation, or return None."""
        out = self.out
        if type(module) in _SIMPLE:
            name, attributes = _SIMPLE[type(module)]
            return out.node(name, [x], node.name, **attributes)
        match module:
            case nn.Hardtanh():  # ReLU6 is one
                return out.node("Clip", [x, out.scalar(module.min_val), out.scalar(module.max_val)], node.name)
            case nn.SiLU():
                return out.node("Mul", [x, out.node("Sigmoid", [x], f"{node.name}_sigmoid")], node.name)
            case nn.GELU():
                return out.gelu(x, module.approximate, node.name)
            case nn.ELU():
                return out.node("Elu", [x], node.name, alpha=module.alpha)
            case nn.LeakyReLU():
                return out.node("LeakyRelu", [x], node.name, alpha=module.negative_slope)
            case nn.PReLU():
                slope = module.weight.reshape(-1, *(1,) * (len(self.shapes[node]) - 2))
                return out.node("PRelu", [x, out.weight(slope, f"{node.target}.weight")], node.name)
            case nn.Softmax() | nn.LogSoftmax():
                axis = -1 if module.dim is None else module.dim
                return out.node(type(module).__name__, [x], node.name, axis=axis)
        return None

    def norm(self, node: fx.Node, module: nn.Module, x: str) -> str | None:
        """Emit a normalisation, or return None."""
        out, rank = self.out, len(self.shapes[node])
        if isinstance(module, PER_CHANNEL):
            ones = torch.ones(self.shapes[node][1])
            scale, shift = folded_batch_norm(ones, None, module)
            if rank == 2:
                names = [out.weight(t, f"{node.target}.{n}") for t, n in ((scale, "weight"), (shift, "bias"))]
                return out.node("Add", [out.node("Mul", [x, names[0]], f"{node.name}_scaled"), names[1]], node.name)
            tensors = {"weight": scale, "bias": shift, "mean": 0 * ones, "var": ones}
            names = [out.weight(tensor, f"{node.target}.{name}") for name, tensor in tensors.items()]
            return out.node("BatchNormalization", [x, *names], node.name, epsilon=0.0)
        if isinstance(module, LayerNorm2d):
            turned = out.node("Transpose", [x], f"{node.name}_nhwc", perm=[0, 2, 3, 1])
            return out.node(
                "Transpose", [self.layer_norm(node, module, turned)], f"{node.name}_nchw", perm=[0, 3, 1, 2]
            )
        return self.layer_norm(node, module, x) if type(module) is nn.LayerNorm else None

    def layer_norm(self, node: fx.Node, module: nn.LayerNorm, x: str) -> str:
        weight = torch.ones(module.normalized_shape) if module.weight is None else module.weight
        bias = torch.zeros(module.normalized_shape) if module.bias is None else module.bias
        names = [self.out.weight(weight, f"{node.target}.weight"), self.out.weight(bias, f"{node.target}.bias")]
        axis = -len(module.normalized_shape)
        return self.out.node("LayerNormalization", [x, *names], node.name, axis=axis, epsilon=module.eps)

    def gather(self, node: fx.Node, module: nn.Module, x: str) -> str | None:
        """Emit a channel selection or padding, or return None."""
        if not isinstance(module, ChannelGather):
            return None
        out, rank, index, channels = self.out, len(self.shapes[node]), module.index, self.shapes[source(node)][1]
        rest = [0] * (rank - 2)
        if module.span is None:
            if bool((index < 0).any()):
                x = out.node("Pad", [x, out.ints([0, 0, *rest, 0, 1, *rest])], f"{node.name}_zero")
                index = index % (channels + 1)
            return out.node("Gather", [x, out.ints(index.tolist())], node.name, axis=1)
        before, start, length, after = module.span
        if (start, length) != (0, channels):
            ends = [out.ints([value]) for value in (start, start + length, 1)]
            x = out.node("Slice", [x, *ends], f"{node.name}_range")
        return out.node("Pad", [x, out.ints([0, before, *rest, 0, after, *rest])], node.name) if before or after else x


def _has_bias(module: nn.Module) -> bool:
    return getattr(module, "bias", None) is not None


def _window(node: fx.Node, conv: nn.Conv1d | nn.Conv2d) -> dict[str, Any]:
    if conv.padding_mode != "zeros":
        raise NoRule(f"{conv.padding_mode} padding of `{node.name}`")
    pads = [*conv.padding, *conv.padding]
    if isinstance(conv.padding, str):
        same = conv.padding == "same"
        total = [d * (k - 1) * same for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]
        pads = [t // 2 for t in total] + [t - t // 2 for t in total]
    return {
        "kernel_shape": conv.kernel_size,
        "strides": conv.stride,
        "dilations": conv.dilation,
        "group": conv.groups,
        "pads": pads,
    }


def _check_plain(node: fx.Node, module: nn.MultiheadAttention) -> None:
    """Refuse attention other than self-attention without masks, batch first."""
    plain = set(node.kwargs) <= {"need_weights"} and len(node.args) == 3 and len(set(node.args)) == 1
    if not plain or not module.batch_first or module.in_proj_weight is None or module.bias_k is not None:
        raise NoRule(f"attention `{node.name}`")
