"""Layers spelled as functions of a module's parameters (`functional.linear(x, self.weight, ...)`) made modules."""

from typing import Any

from torch import fx, nn
from torch.nn import functional

from pruning.nodes import arguments

_BATCH_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")


def rebuild_layer(module: fx.GraphModule, node: fx.Node) -> None:
    """Turn a functional BatchNorm or linear layer into a module at its owner's name, so that parameters keep theirs.

    The owner's children stay; a call whose parameters belong to several owners, or are computed, is left alone.
    """
    if node.op != "call_function" or node.target not in (functional.batch_norm, functional.linear):
        return
    linear = node.target is functional.linear
    given = arguments(node, *(("input", "weight", "bias") if linear else _BATCH_NORM))
    names = {key: value.target for key, value in given.items() if isinstance(value, fx.Node) and value.op == "get_attr"}
    owners = {str(target).rpartition(".")[0] for target in names.values()}
    plain = all(str(target).rpartition(".")[2] == key for key, target in names.items())
    required = {"weight"} if linear else {"running_mean", "running_var"}
    if len(owners) != 1 or not plain or not required <= set(names):
        return
    owner = owners.pop()
    old = module.get_submodule(owner)
    layer = _linear(old) if linear else _batch_norm(old, given)
    for name, child in old.named_children():
        layer.add_module(name, child)
    module.set_submodule(owner, layer.eval())
    node.op, node.target, node.args, node.kwargs = "call_module", owner, (given["input"],), {}


def _linear(old: nn.Module) -> nn.Module:
    weight, bias = _parameters(old)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight, layer.bias = weight, bias  # type: ignore[assignment]  # None where there is no bias
    return layer


def _batch_norm(old: nn.Module, given: dict[str, Any]) -> nn.Module:
    kind = nn.BatchNorm1d if isinstance(old, nn.BatchNorm1d) else nn.BatchNorm2d
    affine = given.get("weight") is not None
    size = len(old.get_buffer("running_mean"))
    layer = kind(size, eps=given.get("eps", 1e-5), momentum=given.get("momentum", 0.1), affine=affine)
    if affine:
        layer.weight, layer.bias = _parameters(old)  # type: ignore[assignment]  # both are parameters
    for name, buffer in old.named_buffers(recurse=False):
        layer.register_buffer(name, buffer)
    return layer


def _parameters(old: nn.Module) -> tuple[nn.Parameter, nn.Parameter | None]:
    weight, bias = getattr(old, "weight", None), getattr(old, "bias", None)
    assert isinstance(weight, nn.Parameter)
    return weight, bias if isinstance(bias, nn.Parameter) else None
