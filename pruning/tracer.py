"""torch.fx tracing at one image size: a forward may ask for any size but the batch's, branch on it and unpack by it."""

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torchvision.ops import StochasticDepth

from pruning.modules import ChannelAffine, ChannelGather
from pruning.shapes import Ghost

_LEAVES = (nn.LayerNorm, StochasticDepth, ChannelGather, ChannelAffine)
_BATCHES = (2, 3)
"""A size that is the same at both does not depend on the batch."""


class SizedTracer(fx.Tracer):
    """Stops at PyTorch's own layers, at LayerNorm subclasses, at stochastic depth (off in eval mode) and at ours.

    Plain torch.fx knows no sizes, so `assert x.shape[1] == 3`, "same" padding computed from H and W, and
    `for part in x.chunk(3, 1)` stop it. Here every value is followed without data while the graph grows.
    """

    def __init__(self, input_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.ghosts: list[Ghost] = []
        self.batch_sizes: dict[tuple[int, ...], Any] = {}
        self.following = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _LEAVES) or super().is_leaf_module(m, module_qualified_name)

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        self.ghosts = [Ghost(root, fx.Graph()) for _ in _BATCHES]
        return super().trace(root, concrete_args)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        # While torch.fx traces, every module call in the process comes here: those of the ghosts are plain calls.
        return forward(*args, **kwargs) if self.following else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self.following else super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Sized(node, self)

    def values(self, node: fx.Node) -> list[Any]:
        """Return what a node gives at both batch sizes; nothing where that cannot be told without data."""
        found = []
        for batch, ghost in zip(_BATCHES, self.ghosts, strict=True):
            if node not in ghost.env:
                try:
                    self._run(ghost, node, batch)
                except Exception:  # noqa: BLE001 - without sizes; running the traced graph tells what is wrong
                    return []
            found.append(ghost.env[node])
        return found

    def _run(self, ghost: Ghost, node: fx.Node, batch: int) -> None:
        if node.op == "placeholder":
            ghost.env[node] = torch.empty((batch, *self.input_shape), device="meta")
            return
        for argument in node.all_input_nodes:
            if argument not in ghost.env:  # parameters enter the graph without a proxy
                self._run(ghost, argument, batch)
        self.following = True
        try:
            with torch.no_grad():
                ghost.env[node] = ghost.run_node(node)
        finally:
            self.following = False


class _Sized(fx.Proxy):
    """A traced value whose sizes are numbers; sizes that depend on the batch are traced values themselves."""

    tracer: SizedTracer

    def __init__(self, node: fx.Node, tracer: SizedTracer) -> None:
        super().__init__(node, tracer)
        # In-place operations later on must not change what is known of this one: it runs now.
        self._values = tracer.values(node)

    @property
    def shape(self) -> Any:
        """Sizes: ints, and traced values where they depend on the batch (the same one for the same size)."""
        if not all(isinstance(value, Tensor) for value in self._values) or not self._values:
            return self.__getattr__("shape")
        return tuple(self._axis(axis) for axis in range(self._values[0].ndim))

    @property
    def ndim(self) -> Any:
        """Number of axes."""
        return len(self.shape) if isinstance(self.shape, tuple) else self.__getattr__("ndim")

    def size(self, dim: int | None = None) -> Any:
        """Return all sizes, or the one of an axis."""
        sizes = self.shape
        if not isinstance(sizes, tuple):
            return self.__getattr__("size")() if dim is None else self.__getattr__("size")(dim)
        return sizes if dim is None else sizes[dim]

    def dim(self) -> Any:
        """Return the number of axes."""
        return len(self.shape) if isinstance(self.shape, tuple) else self.__getattr__("dim")()

    def __getitem__(self, key: Any) -> Any:
        """Return a traced part; a slice of a split is a list of traced parts."""
        if isinstance(key, slice) and self._is_split():
            return list(self)[key]
        return self.tracer.create_proxy("call_function", operator.getitem, (self, key), {})

    def __len__(self) -> int:
        """Return the parts of a split; raises TraceError for anything else."""
        return len(self._values[0]) if self._is_split() else super().__len__()

    def __iadd__(self, other: Any) -> Any:
        """Trace `x += y` as what it is: plain torch.fx takes it for a sum, whose result `x` elsewhere does not see."""
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __isub__(self, other: Any) -> Any:
        """See `__iadd__`."""
        return self.tracer.create_proxy("call_function", operator.isub, (self, other), {})

    def __imul__(self, other: Any) -> Any:
        """See `__iadd__`."""
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})

    def __itruediv__(self, other: Any) -> Any:
        """See `__iadd__`."""
        return self.tracer.create_proxy("call_function", operator.itruediv, (self, other), {})

    def _is_split(self) -> bool:
        return bool(self._values) and all(isinstance(value, tuple | list) for value in self._values)

    def __iter__(self) -> Iterator[Any]:
        """Yield the parts of a split; raises TraceError for anything else."""
        if not self._is_split():
            raise fx.proxy.TraceError(f"the length of `{self.node.name}` is not known")
        return iter([self[part] for part in range(len(self._values[0]))])

    def _axis(self, axis: int) -> Any:
        sizes = tuple(value.shape[axis] for value in self._values)
        if len(set(sizes)) == 1:
            return sizes[0]
        known = self.tracer.batch_sizes
        if sizes not in known:
            whole: Any = self.__getattr__("shape")
            known[sizes] = whole[axis]
        return known[sizes]
