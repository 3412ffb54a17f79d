"""Sizes in a traced graph: what does not depend on the batch becomes a number, what only repeats a tensor goes."""

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from pruning.nodes import source
from pruning.shapes import set_shapes, values_at

_CASTS = {"float", "to", "type_as", "type"}
_BROADCASTING = {operator.add, operator.sub, operator.mul, operator.truediv}


def settle_sizes(module: fx.GraphModule, input_shape: tuple[int, int, int]) -> None:
    """Make integers that are equal at batch sizes 1 and 2 constants; spell flattening `flatten`; set every shape."""
    two = values_at(module, (2, *input_shape))
    for node in module.graph.nodes:
        if node.target is torch.squeeze and len(node.args) == 1 and not node.kwargs:
            # At batch size 1 the batch would go, too.
            node.args = (node.args[0], tuple(axis for axis, size in enumerate(two[source(node)].shape) if size == 1))
    one = values_at(module, (1, *input_shape))
    for node in list(module.graph.nodes):
        if node.target in (torch.reshape, "expand"):
            _spell_out(node, one, two)
        value = one.get(node)
        constant = isinstance(value, int | float | bool | torch.dtype) and value == two[node]
        if constant and node.op in ("call_function", "call_method"):
            for user in list(node.users):
                replace_argument(user, node, value)
        if node.target in _CASTS and node.op == "call_method" and _same_type(value, one[source(node)]):
            node.replace_all_uses_with(source(node))
        if node.target is torch.reshape and _flattens(node, one) and _flattens(node, two):
            node.target, node.args, node.kwargs = torch.flatten, (node.args[0], 1), {}
    set_shapes(one)
    module.graph.eliminate_dead_code()


def drop_expansions(module: fx.GraphModule) -> None:
    """Remove every `expand` whose readers would broadcast anyway."""
    for node in list(module.graph.nodes):
        if node.target == "expand" and all(_broadcasts(user, node) for user in node.users):
            node.replace_all_uses_with(source(node))


def replace_argument(user: fx.Node, old: fx.Node, value: Any) -> None:
    """Put `value` wherever `user` reads the node `old`."""

    def new(argument: Any) -> Any:
        return value if argument is old else argument

    user.args, user.kwargs = pytree.tree_map(new, (user.args, user.kwargs), is_leaf=lambda argument: argument is old)


def _spell_out(node: fx.Node, one: dict[fx.Node, Any], two: dict[fx.Node, Any]) -> None:
    """Give a reshape or expand its sizes one by one; those an expand keeps are -1, whatever they are after slimming."""
    sizes: Any = node.args[1] if len(node.args) == 2 else node.args[1:]
    if isinstance(sizes, fx.Node) and isinstance(one[sizes], tuple | list):
        whole, sizes = sizes, []
        with node.graph.inserting_before(node):
            for axis, (size, other) in enumerate(zip(one[whole], two[whole], strict=True)):
                sizes.append(size if size == other else node.graph.call_function(operator.getitem, (whole, axis)))
    elif not isinstance(sizes, tuple | list):
        sizes = (sizes,)
    if node.target is torch.reshape:
        node.args = (node.args[0], tuple(sizes))
        return
    added = one[node].ndim - one[source(node)].ndim
    kept = [
        axis >= added and all(at[source(node)].shape[axis - added] == at[node].shape[axis] for at in (one, two))
        for axis in range(one[node].ndim)
    ]
    node.args = (node.args[0], *(-1 if keeps else size for keeps, size in zip(kept, sizes, strict=True)))


def _same_type(value: Any, before: Any) -> bool:
    return isinstance(value, Tensor) and isinstance(before, Tensor) and value.dtype == before.dtype


def _flattens(node: fx.Node, values: dict[fx.Node, Any]) -> bool:
    """Return whether a reshape leaves the first axis alone and joins all others."""
    before, after = values[source(node)].shape, values[node].shape
    return len(after) == 2 and len(before) > 1 and bool(before[0] == after[0])


def _broadcasts(user: fx.Node, node: fx.Node) -> bool:
    """Return whether `user` combines the expanded `node` with a tensor of its full shape."""
    others = [side for side in user.args if isinstance(side, fx.Node) and side is not node]
    return user.target in _BROADCASTING and any(side.meta.get("shape") == node.meta["shape"] for side in others)
