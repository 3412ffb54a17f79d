"""What a run of a network on channel ids writes down: equal ids, frozen ids, ids along the axes of parameters."""

import numpy as np
import torch
from torch import Tensor, fx

from pruning.labels import shrunk, varying_axes
from pruning.network import Network

CONSTANT = 0
"""The id of everything that is no channel: parameters used as tensors, and what was frozen beyond telling apart."""
_EVEN = (torch.chunk, torch.tensor_split)


class Ledger(fx.Interpreter):
    """Pairs of equal ids are collected instead of merged: merging is one vectorised step afterwards."""

    def __init__(self, network: Network) -> None:
        super().__init__(network.module)
        self.network = network
        self.num_ids = CONSTANT + 1
        self.edges: list[np.ndarray] = []
        self.freezes: list[tuple[np.ndarray, str]] = []
        self.slots: dict[tuple[str, str], np.ndarray] = {}
        self.tensors: dict[str, Tensor] = {}
        self.cuts: list[tuple[fx.Node, Tensor, list[Tensor]]] = []
        self.output_name = ""
        self.node: fx.Node

    def fresh(self, count: int) -> Tensor:
        """Return int64 [count]: ids that nothing has."""
        self.num_ids += count
        return torch.arange(self.num_ids - count, self.num_ids)

    def equate(self, one: Tensor, other: Tensor) -> None:
        """Note that ids of two tensors of one shape are equal, element by element; ids equal to a constant are frozen."""
        pairs = np.stack([one.reshape(-1).numpy(), other.reshape(-1).numpy()])
        pairs = np.unique(pairs[:, pairs[0] != pairs[1]], axis=1)
        constant = (pairs == CONSTANT).any(axis=0)
        if constant.any():
            self.freeze(torch.from_numpy(pairs[:, constant].max(axis=0)), "combines the channels with a fixed tensor")
        self.edges.append(pairs[:, ~constant])

    def check_shared(self) -> None:
        """Freeze the channels of modules whose parameters the graph also reads by themselves."""
        for node in self.network.module.graph.nodes:
            owner = str(node.target).rpartition(".")[0]
            if node.op == "get_attr":
                self.node = node
                for (module, _), ids in self.slots.items():
                    if module == owner:
                        self.freeze(torch.from_numpy(ids), f"reads the parameters of `{module}` by themselves")

    def check_cuts(self, label: np.ndarray) -> None:
        """Freeze what is cut along its channels, unless all parts always keep equal numbers (halves of a gate)."""
        for node, whole, parts in self.cuts:
            kinds = [np.sort(label[part.numpy()]) for part in parts]
            even = node.target in _EVEN and sum(len(kind) for kind in kinds) == len(whole)
            if not even or not all(np.array_equal(kinds[0], kind) for kind in kinds):
                self.node = node
                self.freeze(whole, "cuts channels apart")

    def freeze(self, ids: Tensor, why: str) -> None:
        """Note that `ids` must stay, because the operator at hand does what `why` says."""
        target = self.node.target
        if self.node.op == "call_module":
            name = type(self.fetch_attr(str(target))).__name__
        else:
            name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        self.freezes.append((torch.unique(shrunk(ids)).numpy(), f"{name} `{self.node.name}` {why}"))

    def slot(self, axis: str, ids: Tensor) -> None:
        """Note the ids along an axis of the module at hand."""
        key = (str(self.node.target), axis)
        if key in self.slots:  # the same module called again: its channels are one and the same
            self.equate(torch.from_numpy(self.slots[key]), ids)
        else:
            self.slots[key] = ids.numpy().copy()

    def along(self, x: Tensor, axis: int) -> Tensor:
        """Return the ids of `x` along `axis`; where they are not constant elsewhere, everything is frozen first."""
        if not varying_axes(x) <= {axis % x.ndim}:
            self.freeze(x, "reads channels that lie on another axis")
            return torch.full((x.shape[axis],), CONSTANT)
        return x[tuple(slice(None) if d == axis % x.ndim else 0 for d in range(x.ndim))]

    def cut(self, x: Tensor, parts: list[Tensor]) -> None:
        """Note where parts of channels are taken out of all of them."""
        ((axis, *others),) = [varying_axes(x)] if varying_axes(x) else [[-1]]
        if axis >= 0 and not others and any(part.ndim != x.ndim or part.shape[axis] != x.shape[axis] for part in parts):
            line = self.along(x, axis)
            found = [torch.unique(part) if part.ndim != x.ndim else self.along(part, axis) for part in parts]
            self.cuts.append((self.node, line, found))
