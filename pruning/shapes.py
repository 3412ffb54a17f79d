"""Shapes of every tensor of a network, found by running it on tensors without data."""

import copy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn


def values_at(module: fx.GraphModule, shape: tuple[int, ...]) -> dict[fx.Node, Any]:
    """Return every node's value for an input of `shape` [batch, C, H, W]: numbers, and tensors without data."""
    ghost = Ghost(module)
    with torch.no_grad():
        ghost.run(torch.empty(shape, device="meta"))
    return ghost.values


def set_shapes(values: dict[fx.Node, Any]) -> None:
    """Set `meta["shape"]` of every node whose value is a tensor."""
    for node, value in values.items():
        node.meta.pop("shape", None)
        if isinstance(value, Tensor):
            node.meta["shape"] = tuple(value.shape)


class Ghost(fx.Interpreter):
    """Runs the graph on copies of its modules whose tensors are on the meta device; nothing is computed or copied."""

    def __init__(self, module: nn.Module, graph: fx.Graph | None = None) -> None:
        super().__init__(module, garbage_collect_values=False, graph=graph)
        self.values: dict[fx.Node, Any] = {}
        self.ghosts: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n] = result = super().run_node(n)
        return result

    def fetch_attr(self, target: str) -> Any:
        if target not in self.ghosts:
            self.ghosts[target] = _without_data(super().fetch_attr(target))
        return self.ghosts[target]


def _without_data(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty_like(value, device="meta")
    assert isinstance(value, nn.Module)
    tensors: dict[int, Any] = {}
    for tensor in chain(value.parameters(), value.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        tensors[id(tensor)] = nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(value, tensors)
