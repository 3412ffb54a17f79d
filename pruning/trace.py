"""Turns a PyTorch classification network into the traced `Network` that the rest of the room works on."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from pruning.canonical import canonicalise
from pruning.modules import PER_CHANNEL, ChannelAffine
from pruning.network import Network
from pruning.tracer import SizedTracer

_TOLERANCE = 1e-4


class NotTraceable(ValueError):
    """The network branches on data, or does not map images to one row of logits; the message says what to do."""


def trace(model: nn.Module, input_shape: tuple[int, int, int]) -> Network:
    """Return `model` as a network in eval mode, in the vocabulary of `pruning.canonical`; `model` is not changed.

    Parameters that several layers share become parameters of each; parametrisations (weight norm) become plain weights.

    Parameters
    ----------
    input_shape
        Channels, height, width of one image.

    Raises
    ------
    NotTraceable
        Control flow depends on tensors, hooks change what layers compute, the input is too small for the network, the
        output is not [batch, logits], or the traced graph does not compute what the model computes.
    """
    model = _prepared(model)
    probe = _probe(model, input_shape)
    expected = _run(model, probe, input_shape)
    if not isinstance(expected, Tensor):
        raise NotTraceable(f"the network must return one tensor of logits, it returns a {type(expected).__name__}")
    tracer = SizedTracer(input_shape)
    try:
        graph = tracer.trace(model)
    except Exception as error:  # tracing runs the model's own code, which may raise anything
        raise NotTraceable(
            f"torch.fx cannot trace {type(model).__name__}: {_first_line(error)}. Its forward must not branch on tensor "
            "values, assign to parts of tensors or make tensors of the batch's size; give an ONNX file of it instead"
        ) from error
    name = type(model).__name__
    return finish(fx.GraphModule(tracer.root, graph, name), input_shape, (probe, expected))


def finish(
    module: fx.GraphModule, input_shape: tuple[int, int, int], example: tuple[Tensor, Tensor] | None = None
) -> Network:
    """Canonicalise a graph of image -> logits and return it as a network; raises NotTraceable like `trace`.

    `example` is a batch of images and the logits they must give; without it nothing is computed.
    """
    channels, height, width = input_shape
    input_shape = (channels, height, width)
    module.eval()
    try:
        canonicalise(module, input_shape)
    except Exception as error:  # the network's own functions run here, on tensors without data
        raise NotTraceable(f"the network cannot run on an input of {input_shape}: {_first_line(error)}") from error
    module.eval()
    shape = output_node(module).meta.get("shape")
    if shape is None or len(shape) != 2 or shape[0] != 1:
        raise NotTraceable(f"the network must give one row of logits for each image, it gives {shape}")
    if example is not None:
        _compare(module, example, input_shape)
    return Network(module=module, input_shape=input_shape, num_outputs=shape[1])


def _compare(module: fx.GraphModule, example: tuple[Tensor, Tensor], input_shape: tuple[int, int, int]) -> None:
    images, expected = example
    actual = _run(module, images, input_shape)
    scale = max(1.0, float(expected.abs().nan_to_num().max()))
    if not torch.allclose(actual / scale, expected / scale, rtol=0, atol=_TOLERANCE, equal_nan=True):
        raise NotTraceable(
            "the traced graph does not compute what the network computes: its forward is random, or overwrites parts of "
            "a tensor that is read again; give an ONNX file of it instead"
        )


def output_node(module: fx.GraphModule) -> fx.Node:
    """Return the node whose tensor is the network's output."""
    result = next(node for node in reversed(module.graph.nodes) if node.op == "output").args[0]
    if not isinstance(result, fx.Node):
        raise NotTraceable("the network must return one tensor of logits, it returns several values")
    return result


def _prepared(model: nn.Module) -> nn.Module:
    """Return a float32 copy in eval mode that takes images alone, with plain parameters of its own for every module."""
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:  # noqa: SLF001 - hooks have no public list
            raise NotTraceable(
                f"{type(module).__name__} `{name}` has forward hooks, which a graph cannot hold: remove them "
                "(torch.nn.utils.remove_weight_norm, remove_spectral_norm) or give an ONNX file"
            )
        normalises = isinstance(module, PER_CHANNEL) and not isinstance(module, ChannelAffine)
        if normalises and module.running_mean is None:
            raise NotTraceable(
                f"{type(module).__name__} `{name}` has no running statistics: logits depend on the other images of a batch"
            )
    try:
        model = copy.deepcopy(model).float().eval()
    except Exception as error:  # modules may hold anything
        raise NotTraceable(f"{type(model).__name__} cannot be copied: {_first_line(error)}") from error
    for module in [module for module in model.modules() if parametrize.is_parametrized(module)]:
        # A parametrised module has a class of its own, which a copy shares and removal changes.
        kind = type(module)
        module.__class__ = type(kind.__name__, kind.__bases__, dict(kind.__dict__))
        for name in list(module.parametrizations):  # type: ignore[arg-type]  # nn.Module types every attribute alike
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    _untie(model)
    kind = type(model)
    model.__class__ = type(kind.__name__, (kind,), {"forward": _of_images(kind.forward), "__module__": kind.__module__})
    return model


def _of_images(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return `forward` with every argument but the images at its default."""

    def of_images(self: nn.Module, images: Tensor) -> Any:
        return forward(self, images)

    return of_images


def _untie(model: nn.Module) -> None:
    """Give every module its own copy of a parameter that an earlier module holds too."""
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in seen:
                setattr(module, name, nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad))
            seen.add(id(parameter))


def _probe(model: nn.Module, input_shape: tuple[int, int, int]) -> Tensor:
    """Return two images of noise on the model's device."""
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    return torch.randn(2, *input_shape, generator=torch.Generator().manual_seed(0)).to(device)


def _run(model: nn.Module, images: Tensor, input_shape: tuple[int, int, int]) -> Any:
    try:
        with torch.no_grad():
            return model(images.clone())
    except Exception as error:  # the model's own code runs here
        raise NotTraceable(f"the network cannot run on an input of {input_shape}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
