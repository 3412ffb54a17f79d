"""Operations that overwrite their input, made explicit in the graph: whoever reads the input later reads the result."""

import inspect
import operator
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx

from pruning.nodes import module_of

_AUGMENTED: set[Callable[..., Any]] = {
    operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.ipow,
}  # fmt: skip
_SAME = {"contiguous", "detach", "float", "requires_grad_", "to"}
_SAME_MODULES = ("Identity", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "StochasticDepth")


def out_of_place(module: fx.GraphModule, values: dict[fx.Node, Any]) -> None:
    """Let readers after an in-place operation read its result; torch.fx alone drops it where its result is not used.

    `values` are the nodes' values (`values_at`). What is overwritten through a view stays as it is: `finish` notices.
    """
    order = {node: position for position, node in enumerate(module.graph.nodes)}
    for node in list(module.graph.nodes):
        if not _overwrites(module, node) or not isinstance(values.get(node), Tensor):
            continue
        origin: Any = node.args[0] if node.args else node.kwargs.get("input")
        while isinstance(origin, fx.Node):
            for user in list(origin.users):
                if order[user] > order[node]:
                    user.replace_input_with(origin, node)
            origin = origin.args[0] if _is_alias(module, origin) else None


def _overwrites(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return getattr(module_of(module, node), "inplace", False) is True
    if node.op not in ("call_function", "call_method"):
        return False
    name = str(node.target) if node.op == "call_method" else str(getattr(node.target, "__name__", ""))
    if (name.endswith("_") and not name.endswith("__") and name != "requires_grad_") or node.target in _AUGMENTED:
        return True
    return bool(node.kwargs.get("inplace")) or (node.op == "call_function" and _asks_for_it(node))


def _asks_for_it(node: fx.Node) -> bool:
    """Return whether `inplace` is given by position, as in `functional.relu(x, True)`."""
    if not any(value is True for value in node.args):
        return False
    try:
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # built-in functions have no signature, and none of them takes `inplace`
        return False
    return bound.arguments.get("inplace") is True


def _is_alias(module: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a node hands on the very tensor it was given (dropout in eval mode does)."""
    if node.op == "call_module":
        return type(module_of(module, node)).__name__ in _SAME_MODULES
    return node.op == "call_method" and node.target in _SAME
