"""Typed access to the nodes of an fx graph."""

from typing import Any

from torch import fx, nn


def source(node: fx.Node) -> fx.Node:
    """Return the node that computes the first argument of `node`."""
    first = node.args[0]
    assert isinstance(first, fx.Node)
    return first


def arguments(node: fx.Node, *names: str) -> dict[str, Any]:
    """Return the arguments of a call by name, `names` being those of the positional ones."""
    return dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


def module_of(root: nn.Module, node: fx.Node) -> nn.Module | None:
    """Return the module that `node` calls, if it calls one."""
    return root.get_submodule(str(node.target)) if node.op == "call_module" else None
