"""Rewrites a traced graph into one small vocabulary, so that later passes know one spelling of each operation.

After `canonicalise`: activations, pools, dropout and softmax are modules; methods are functions; in-place is out of
place; integers that do not depend on the batch size are constants; channel slices, splits and shuffles are
`ChannelSelect`, zero padding of channels is `ChannelPad`; every tensor node has `meta["shape"]` at batch size 1.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from pruning.inplace import out_of_place
from pruning.modules import ChannelPad, ChannelSelect
from pruning.nodes import arguments, module_of, source
from pruning.rebuild import rebuild_layer
from pruning.shapes import set_shapes, values_at
from pruning.sizes import drop_expansions, settle_sizes

_ALIASES: dict[Any, Callable[..., Any]] = {
    torch.add: operator.add, operator.iadd: operator.add, torch.mul: operator.mul, operator.imul: operator.mul,
    torch.multiply: operator.mul, torch.sub: operator.sub, operator.isub: operator.sub, torch.concat: torch.cat,
    torch.div: operator.truediv, operator.itruediv: operator.truediv, torch.swapaxes: torch.transpose,
}  # fmt: skip
_MODULES: dict[Any, Callable[..., nn.Module]] = {
    functional.relu: lambda inplace=False: nn.ReLU(),
    torch.relu: nn.ReLU,
    torch.relu_: nn.ReLU,
    functional.relu6: lambda inplace=False: nn.ReLU6(),
    functional.hardswish: lambda inplace=False: nn.Hardswish(),
    functional.hardsigmoid: lambda inplace=False: nn.Hardsigmoid(),
    functional.silu: lambda inplace=False: nn.SiLU(),
    functional.mish: lambda inplace=False: nn.Mish(),
    functional.gelu: lambda approximate="none": nn.GELU(approximate),
    functional.elu: lambda alpha=1.0, inplace=False: nn.ELU(alpha),
    functional.leaky_relu: lambda negative_slope=0.01, inplace=False: nn.LeakyReLU(negative_slope),
    functional.softplus: nn.Softplus,
    functional.selu: lambda inplace=False: nn.SELU(),
    functional.celu: lambda alpha=1.0, inplace=False: nn.CELU(alpha),
    functional.hardtanh: lambda min_val=-1.0, max_val=1.0, inplace=False: nn.Hardtanh(min_val, max_val),
    functional.softsign: nn.Softsign,
    functional.logsigmoid: nn.LogSigmoid,
    functional.sigmoid: nn.Sigmoid,
    torch.sigmoid: nn.Sigmoid,
    functional.tanh: nn.Tanh,
    torch.tanh: nn.Tanh,
    functional.max_pool2d: nn.MaxPool2d,
    functional.avg_pool2d: nn.AvgPool2d,
    functional.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    functional.adaptive_max_pool2d: nn.AdaptiveMaxPool2d,
    functional.dropout: lambda p=0.5, training=False, inplace=False: nn.Dropout(p),
    functional.dropout2d: lambda p=0.5, training=False, inplace=False: nn.Dropout2d(p),
    functional.softmax: lambda dim=None, _stacklevel=3, dtype=None: nn.Softmax(dim),
    torch.softmax: lambda dim, dtype=None: nn.Softmax(dim),
    functional.log_softmax: lambda dim=None, _stacklevel=3, dtype=None: nn.LogSoftmax(dim),
    torch.log_softmax: lambda dim, dtype=None: nn.LogSoftmax(dim),
}
_VARIADIC = {"view": torch.reshape, "reshape": torch.reshape, "permute": torch.permute, "flip": torch.flip}
_LIKE = {"view_as", "reshape_as", "expand_as"}
_KEYWORDS = {"axis": "dim", "axes": "dim", "keepdims": "keepdim"}
"""NumPy's names of arguments, which PyTorch takes too."""
_NO_OPS = {"contiguous", "clone", "detach", "requires_grad_"}
_METHODS_ONLY = {"where"}
"""Methods whose function takes its arguments in another order."""
_SPLITS = (torch.chunk, torch.split, torch.tensor_split, torch.unbind)
_MOVES = (torch.reshape, torch.flatten, torch.permute, torch.transpose, torch.narrow, operator.getitem, *_SPLITS)


def canonicalise(module: fx.GraphModule, input_shape: tuple[int, int, int]) -> fx.GraphModule:
    """Rewrite `module` in place and return it; parameters keep their names."""
    out_of_place(module, values_at(module, (1, *input_shape)))
    for node in list(module.graph.nodes):
        _rename_call(node)
    settle_sizes(module, input_shape)
    for node in list(module.graph.nodes):
        _make_module(module, node)
        rebuild_layer(module, node)
    for child in module.modules():
        if isinstance(getattr(child, "inplace", None), bool):
            child.inplace = False  # type: ignore[assignment]  # nn.Module types every attribute as Tensor | Module
    for node in list(module.graph.nodes):
        _rewrite_pad(module, node)
        _rewrite_selection(module, node)
    drop_expansions(module)
    return tidy(module)


def tidy(module: fx.GraphModule) -> fx.GraphModule:
    """Drop what nothing reads and recompile."""
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.graph.lint()
    module.recompile()
    return module


def annotate(module: fx.GraphModule, input_shape: tuple[int, int, int]) -> None:
    """Set `meta["shape"]` of every tensor node, at batch size 1."""
    set_shapes(values_at(module, (1, *input_shape)))


def become_module(module: fx.GraphModule, node: fx.Node, child: nn.Module, args: tuple[Any, ...]) -> None:
    """Turn `node` into a call of the new submodule `child`, keeping its name and users."""
    target = f"functions.{node.name}"
    module.add_submodule(target, child)
    node.op, node.target, node.args, node.kwargs = "call_module", target, args, {}


def _rename_call(node: fx.Node) -> None:
    """Turn methods into functions, several names of a function or argument into one; drop assertions."""
    if node.op.startswith("call_"):
        node.kwargs = {_KEYWORDS.get(name, name): value for name, value in node.kwargs.items()}
        first = next((name for name in ("input", "tensors", "x") if name in node.kwargs), None)
        if not node.args and first is not None:
            node.args = (node.kwargs[first],)
            node.kwargs = _without(node.kwargs, first)
    if node.op == "call_method":
        _rewrite_method(node)
    elif node.op == "call_function":
        if "other" in node.kwargs and len(node.args) == 1:
            node.args, node.kwargs = (*node.args, node.kwargs["other"]), _without(node.kwargs, "other")
        _rename_function(node, node.target)
        if node.target is getattr(torch, "_assert"):  # noqa: B009  # what traced assertions call; it has no public name
            node.graph.erase_node(node)


def _rename_function(node: fx.Node, function: Any) -> None:
    """Call `function` under its usual name; `torch.add(x, y, alpha=2)` has no other."""
    plain = not set(node.kwargs) & {"alpha", "out", "rounding_mode"}
    node.op, node.target = "call_function", _ALIASES.get(function, function) if plain else function


def _without(values: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != key}


def _make_module(module: fx.GraphModule, node: fx.Node) -> None:
    if node.op == "call_function" and node.target in _MODULES and node.args:
        child = _MODULES[node.target](*node.args[1:], **_without(node.kwargs, "return_indices"))
        become_module(module, node, child, (node.args[0],))


def _rewrite_method(node: fx.Node) -> None:
    name, origin = str(node.target), source(node)
    if name in _NO_OPS:
        node.replace_all_uses_with(origin)
        node.graph.erase_node(node)
        return
    if name in _VARIADIC:
        rest: Any = (*node.args[1:], *node.kwargs.values())
        sizes = rest[0] if len(rest) == 1 and isinstance(rest[0], tuple | list) else rest
        whole = _VARIADIC[name] is torch.reshape and len(rest) == 1 and isinstance(rest[0], fx.Node)
        node.op, node.target = "call_function", _VARIADIC[name]
        node.args, node.kwargs = (origin, rest[0] if whole else tuple(sizes)), {}
    elif name in _LIKE:
        with node.graph.inserting_before(node):
            shape = node.graph.call_function(getattr, (*node.args[1:], *node.kwargs.values(), "shape"))
        node.op, node.args, node.kwargs = "call_function", (origin, shape), {}
        node.target = torch.reshape
        if name == "expand_as":
            node.op, node.target = "call_method", "expand"
    elif name not in _METHODS_ONLY and callable(function := getattr(torch, name.removesuffix("_"), None)):
        _rename_function(node, function)


def _rewrite_pad(module: fx.GraphModule, node: fx.Node) -> None:
    """Turn zero padding of axis 1 into a `ChannelPad`, after a `functional.pad` of the spatial axes if need be."""
    if node.op != "call_function" or node.target is not functional.pad:
        return
    given = arguments(node, "input", "pad", "mode", "value")
    origin, pads = source(node), tuple(given["pad"])
    shape = origin.meta["shape"]
    depth = len(shape) - 2
    channel = pads[2 * depth :]
    if given.get("mode", "constant") != "constant" or (given.get("value") or 0) != 0 or len(channel) != 2:
        return
    if min(channel) < 0 or not any(channel):
        return
    if any(pads[: 2 * depth]):
        with node.graph.inserting_before(node):
            origin = node.graph.call_function(functional.pad, (origin, pads[: 2 * depth]))
        origin.meta["shape"] = (*shape[:2], *node.meta["shape"][2:])
    before, after = (torch.full((n,), -1) for n in channel)
    index = torch.cat([before, torch.arange(shape[1]), after])
    become_module(module, node, ChannelPad(index), (origin,))


def _rewrite_selection(module: fx.GraphModule, node: fx.Node) -> None:
    """Turn the end of a chain of moves (views, transposes, slices) into a `ChannelSelect` where that is all it does."""
    shape = node.meta.get("shape", ())
    if node.op != "call_function" or node.target not in _MOVES or len(shape) not in (2, 4):
        return
    chain = [node]
    while isinstance(parent := chain[-1].args[0], fx.Node) and parent.op == "call_function" and parent.target in _MOVES:
        chain.append(parent)
    origin = source(chain[-1])
    if "shape" not in origin.meta:
        return
    before = origin.meta["shape"]
    if before[2:] != shape[2:] or len(before) != len(shape) or (before[0], shape[0]) != (1, 1) or shape[1] == 0:
        return
    positions = _moved(chain, origin)
    if positions is None:
        return
    # Where each channel's first element came from; the chain selects channels if all others moved along with it.
    index = positions.reshape(shape[1], -1)[:, 0] // max(1, positions.numel() // shape[1])
    expected = torch.arange(_numel(before))
    if not torch.equal(expected.reshape(before)[:, index], positions):
        return
    if isinstance(earlier := module_of(module, origin), ChannelSelect):
        index, origin = earlier.index[index], source(origin)
    if torch.equal(index, torch.arange(origin.meta["shape"][1])):
        node.replace_all_uses_with(origin)
    else:
        become_module(module, node, ChannelSelect(index), (origin,))


def _moved(chain: list[fx.Node], origin: fx.Node) -> Tensor | None:
    """Return where each element of `chain[0]` comes from in `origin` (row-major, batch 1); None for several tensors."""
    shape = origin.meta["shape"]
    value: Any = torch.arange(_numel(shape)).reshape(shape)
    for node in reversed(chain):
        sizes = pytree.tree_leaves((node.args[1:], dict(node.kwargs)))
        static = [1 if isinstance(size, fx.Node) else size for size in sizes]
        spec = pytree.tree_structure((node.args[1:], dict(node.kwargs)))
        args, kwargs = pytree.tree_unflatten(static, spec)
        value = node.target(value, *args, **kwargs)  # type: ignore[operator]
    return value if isinstance(value, Tensor) else None


def _numel(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
