"""Layers spelled as functions of a module's parameters (`functional.linear(x, self.weight, ...)`) made modules."""

from collections.abc import Callable
from typing import Any

from torch import fx, nn
from torch.nn import functional

from pruning.nodes import arguments

_NAMES: dict[Any, tuple[str, ...]] = {
    functional.linear: ("input", "weight", "bias"),
    functional.conv2d: ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    functional.batch_norm: ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
}
_GEOMETRY = ("stride", "padding", "dilation", "groups")


def rebuild_layer(module: fx.GraphModule, node: fx.Node) -> None:
    """Turn a functional convolution, linear layer or BatchNorm into a module at its owner's name: parameters keep theirs.

    The owner's children stay; a call whose parameters belong to several owners, have other names or are computed is left
    alone, and so is one whose owner is called otherwise, too.
    """
    if node.op != "call_function" or node.target not in _NAMES:
        return
    given = arguments(node, *_NAMES[node.target])
    names = {key: value.target for key, value in given.items() if isinstance(value, fx.Node) and value.op == "get_attr"}
    computed = any(isinstance(value, fx.Node) and key not in ("input", *names) for key, value in given.items())
    owners = {str(target).rpartition(".")[0] for target in names.values()}
    plain = all(str(target).rpartition(".")[2] == key for key, target in names.items())
    required = {"running_mean", "running_var"} if node.target is functional.batch_norm else {"weight"}
    if computed or len(owners) != 1 or owners == {""} or not plain or not required <= set(names):
        return
    (owner,) = owners
    old = module.get_submodule(owner)
    layer = _BUILDERS[node.target](old, given)
    if any(other.target == owner and not _same(old, layer) for other in module.graph.nodes):
        return
    for name, child in old.named_children():
        layer.add_module(name, child)
    module.set_submodule(owner, layer.eval())
    node.op, node.target, node.args, node.kwargs = "call_module", owner, (given["input"],), {}


def _same(old: nn.Module, layer: nn.Module) -> bool:
    """Return whether another call of `old` computes what `layer` does."""
    fields = ("eps", *_GEOMETRY)
    return type(old) is type(layer) and all(getattr(old, f, None) == getattr(layer, f, None) for f in fields)


def _linear(old: nn.Module, given: dict[str, Any]) -> nn.Module:
    weight, bias = _parameters(old, given)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight, layer.bias = weight, bias  # type: ignore[assignment]  # None where there is no bias
    return layer


def _convolution(old: nn.Module, given: dict[str, Any]) -> nn.Module:
    weight, bias = _parameters(old, given)
    geometry = {name: given[name] for name in _GEOMETRY if name in given}
    c_in = weight.shape[1] * int(geometry.get("groups", 1))
    kernel = (weight.shape[2], weight.shape[3])
    layer = nn.Conv2d(c_in, weight.shape[0], kernel, bias=bias is not None, device="meta", **geometry)
    layer.weight, layer.bias = weight, bias
    return layer


def _batch_norm(old: nn.Module, given: dict[str, Any]) -> nn.Module:
    kind = nn.BatchNorm1d if isinstance(old, nn.BatchNorm1d) else nn.BatchNorm2d
    affine = given.get("weight") is not None
    size = len(old.get_buffer("running_mean"))
    layer = kind(size, eps=given.get("eps", 1e-5), momentum=given.get("momentum", 0.1), affine=affine)
    if affine:
        layer.weight, layer.bias = _parameters(old, given)  # type: ignore[assignment]  # both are parameters
    for name, buffer in old.named_buffers(recurse=False):
        layer.register_buffer(name, buffer)
    return layer


def _parameters(old: nn.Module, given: dict[str, Any]) -> tuple[nn.Parameter, nn.Parameter | None]:
    weight, bias = getattr(old, "weight", None), getattr(old, "bias", None)
    assert isinstance(weight, nn.Parameter)
    used = isinstance(bias, nn.Parameter) and given.get("bias") is not None
    return weight, bias if used else None


_BUILDERS: dict[Any, Callable[[nn.Module, dict[str, Any]], nn.Module]] = {
    functional.linear: _linear,
    functional.conv2d: _convolution,
    functional.batch_norm: _batch_norm,
}
