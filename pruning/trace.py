"""Turns a PyTorch classification network into the traced `Network` that the rest of the room works on."""

import copy

from torch import fx, nn
from torchvision.ops import StochasticDepth

from pruning.canonical import canonicalise, replace_argument
from pruning.modules import ChannelAffine, ChannelGather
from pruning.network import Network

_LEAVES = (nn.LayerNorm, StochasticDepth, ChannelGather, ChannelAffine)


class NotTraceable(ValueError):
    """The network branches on data, or does not map images to one row of logits; the message says what to do."""


class _Tracer(fx.Tracer):
    """Stops at PyTorch's own layers, at LayerNorm subclasses, at stochastic depth (off in eval mode) and at ours."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _LEAVES) or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module, input_shape: tuple[int, int, int]) -> Network:
    """Return `model` as a network in eval mode, in the vocabulary of `pruning.canonical`; `model` is not changed.

    Parameters
    ----------
    input_shape
        Channels, height, width of one image.

    Raises
    ------
    NotTraceable
        Control flow depends on tensors, the input is too small for the network, or the output is not [batch, logits].
    """
    model = copy.deepcopy(model).eval()
    tracer = _Tracer()
    try:
        graph = tracer.trace(model)
    except Exception as error:  # tracing runs the model's own code, which may raise anything
        raise NotTraceable(
            f"torch.fx cannot trace {type(model).__name__}: {error}. Its forward must not branch on tensor values; "
            "give an ONNX file of it instead"
        ) from error
    if sum(node.op == "placeholder" for node in graph.nodes) != 1:
        graph = _single_input(graph)
    return finish(fx.GraphModule(tracer.root, graph, type(model).__name__), input_shape)


def finish(module: fx.GraphModule, input_shape: tuple[int, int, int]) -> Network:
    """Canonicalise a graph of image -> logits and return it as a network; raises NotTraceable like `trace`."""
    channels, height, width = input_shape
    input_shape = (channels, height, width)
    try:
        canonicalise(module.eval(), input_shape)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise NotTraceable(f"the network cannot run on an input of {input_shape}: {error}") from error
    shape = output_node(module).meta.get("shape")
    if shape is None or len(shape) != 2 or shape[0] != 1:
        raise NotTraceable(f"the network must give one row of logits for each image, it gives {shape}")
    return Network(module=module.eval(), input_shape=input_shape, num_outputs=shape[1])


def output_node(module: fx.GraphModule) -> fx.Node:
    """Return the node whose tensor is the network's output."""
    result = next(node for node in reversed(module.graph.nodes) if node.op == "output").args[0]
    if not isinstance(result, fx.Node):
        raise NotTraceable("the network must return one tensor of logits, it returns several values")
    return result


def _single_input(graph: fx.Graph) -> fx.Graph:
    """Bind every input after the first to its default; raises NotTraceable where one has none."""
    _, *others = [node for node in graph.nodes if node.op == "placeholder"]
    for node in others:
        if not node.args:
            raise NotTraceable(f"the network takes a second input `{node.target}`; it must take images alone")
        for user in list(node.users):
            replace_argument(user, node, node.args[0])
        graph.erase_node(node)
    return graph
