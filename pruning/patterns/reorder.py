"""Channels that like the same inputs share a block-row: reordering inside coupling groups (method section 4).

Reordering the units of a coupling group changes nothing a network computes, but which channels form a block-row of the
layers that produce them, and which form a tile of the layers that read them. Letters: U = units of a group, O x I x T = a
weight as output channels, input channels and kernel taps; a cell = places of a group that share every tile.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lut.pattern import Pattern
from pruning.network import CouplingGroup, Keep, Network, Slot
from pruning.patterns.masks import as_layer, best_mask, survivors

MAX_ROUNDS = 8
"""Alternations between the tiles that stay and the units that share them; few groups need more than five."""
LEAST_GAIN = 1e-4
"""A round that adds a smaller share than this is the last."""


def reorder(
    network: Network, groups: Sequence[CouplingGroup], saliency: Mapping[str, Tensor], patterns: Mapping[str, Pattern]
) -> Keep:
    """Return all units of every group that masked layers touch, in an order under which the best masks keep more.

    `slim(network, groups, reorder(...))` is the reordered network. The saliency that the best masks keep, summed over all
    masked layers, is never less than in the given order. A group's order serves both sides at once: block-rows of the
    layers that produce it and input tiles of the layers that read it (the inputs of a layer are another group's outputs,
    so there is no input reordering beside this). Groups are taken in turn, each with the others as they then are. Frozen
    groups are left out.

    Args:
        network: the network the groups belong to.
        groups: `coupling_groups(network)`.
        saliency: of each masked layer's weights, by module name.
        patterns: of each masked layer, by module name; all of them have a saliency.

    Raises ValueError for a pattern without a saliency, for a grouped convolution, and as `best_mask` does.
    """
    if missing := sorted(set(patterns) - set(saliency)):
        raise ValueError(f"no saliency for {missing[0]}")
    if grouped := [name for name in patterns if getattr(network.module.get_submodule(name), "groups", 1) > 1]:
        raise ValueError(f"{grouped[0]} is a grouped convolution: it has no block-rows over all its input channels")
    layers = {name: as_layer(saliency[name]) for name in patterns}
    fitted = {name: patterns[name].fitted(x.shape[1], x.shape[0], x.shape[2]) for name, x in layers.items()}
    orders: dict[str, np.ndarray] = {}
    for group in groups:
        slots = [slot for slot in group.slots if slot.module in layers]
        if slots and not group.frozen:
            deciding = [slot for slot in slots if _decides(slot, fitted[slot.module], layers[slot.module])]
            state = _Group(units=group.units, slots=deciding, patterns=fitted)
            orders[group.id] = order = state.best_order(layers)
            layers |= _reordered(layers, slots, order)
    return orders


@dataclass(frozen=True, kw_only=True)
class _Group:
    """A coupling group as the masked layers see it whose masks depend on its order."""

    units: int
    slots: Sequence[Slot]
    patterns: Mapping[str, Pattern]
    """Fitted."""

    def best_order(self, layers: Mapping[str, Tensor]) -> np.ndarray:
        """Return the best order found, int64 [U], never worse than the given one.

        Alternates, as k-means does: the tiles that stay are the best for the units that share them, then units move to
        where the tiles that stay keep most of them. Starts from the given order, and from units that differ most.
        """
        given = best = np.arange(self.units)
        sized = [(slot, size) for slot in self.slots if (size := _tile(slot, self.patterns[slot.module], layers)) > 1]
        if not sized:
            return best
        tiles = np.concatenate([slot.index // size for slot, size in sized], axis=1)
        cells, cell_of = np.unique(tiles, axis=0, return_inverse=True)
        if len(cells) == 1:
            return best
        cell_of = cell_of.reshape(-1)
        starts = [given, _arranged(self._likeness(layers, sized, len(cells)), cell_of)]
        most = self._retained(layers)
        for order in starts:
            value = most if order is given else self._retained(_reordered(layers, self.slots, order))
            for _ in range(MAX_ROUNDS):
                if value > most * (1 + LEAST_GAIN):
                    best, most = order, value
                order = _arranged(self._gains(layers, order, sized, cells), cell_of)
                last, value = value, self._retained(_reordered(layers, self.slots, order))
                if value <= last * (1 + LEAST_GAIN):
                    break
        return best

    def _retained(self, layers: Mapping[str, Tensor]) -> float:
        names = dict.fromkeys(slot.module for slot in self.slots)
        return sum(float(layers[n][best_mask(layers[n], self.patterns[n])].sum(dtype=torch.float64)) for n in names)

    def _gains(
        self, layers: Mapping[str, Tensor], order: np.ndarray, sized: Sequence[tuple[Slot, int]], cells: np.ndarray
    ) -> np.ndarray:
        """Return [U, cells]: the saliency of each unit that the tiles of each cell would keep, as they are in `order`."""
        moved = _reordered(layers, self.slots, order)
        gains = np.zeros((self.units, len(cells)))
        first = 0
        for slot, size in sized:
            layer, pattern = moved[slot.module], self.patterns[slot.module]
            free = layer if slot.axis == "out" and pattern.shared else torch.where(survivors(layer, pattern), layer, 0)
            axes = (0, 1) if slot.axis == "out" else (1, 0)
            mask = best_mask(layer, pattern).permute(*axes, 2).flatten(1)
            stays = mask.reshape(-1, size, mask.shape[1]).any(dim=1)
            gain = (free.permute(*axes, 2).flatten(1) @ stays.to(free.dtype).T).double().numpy()
            for column in range(slot.index.shape[1]):
                of_place = gain[slot.index[:, column]][:, cells[:, first + column]]
                gains[order] += of_place
            first += slot.index.shape[1]
        return gains

    def _likeness(self, layers: Mapping[str, Tensor], sized: Sequence[tuple[Slot, int]], num_seeds: int) -> np.ndarray:
        """Return [U, seeds]: cosines between the units' normalised saliencies and those of the units least alike."""
        parts = []
        for slot, _ in sized:
            layer = layers[slot.module] if slot.axis == "out" else layers[slot.module].transpose(0, 1)
            parts.append(layer.flatten(1)[torch.from_numpy(slot.index)].flatten(1))
        rows = torch.cat(parts, dim=1)
        heaviest = int(rows.sum(dim=1).argmax())
        rows = functional.normalize(rows, dim=1)
        columns = [rows @ rows[heaviest]]
        nearest = columns[0]
        for _ in range(num_seeds - 1):
            columns.append(rows @ rows[int(nearest.argmin())])
            nearest = torch.maximum(nearest, columns[-1])
        return torch.stack(columns, dim=1).double().numpy()


def _tile(slot: Slot, fitted: Pattern, layers: Mapping[str, Tensor]) -> int:
    """Return how many neighbours along the slot's axis share a tile; 0 where all do, or tiles straddle taps."""
    channels = layers[slot.module].shape[int(slot.axis == "in")]
    size = fitted.tile_out if slot.axis == "out" else fitted.tile_in
    return size if size < channels and channels % max(size, 1) == 0 else 0


def _decides(slot: Slot, fitted: Pattern, layer: Tensor) -> bool:
    """Return whether the order along the slot's axis can change what the layer's best mask keeps."""
    if slot.axis == "out":
        return 1 < fitted.tile_out < layer.shape[0]
    return fitted.m > 1 or fitted.tile_in > 1


def _reordered(layers: Mapping[str, Tensor], slots: Sequence[Slot], order: np.ndarray) -> dict[str, Tensor]:
    """Return the layers of these slots with the unit `order[r]` in the r-th unit's place."""
    result = {slot.module: layers[slot.module] for slot in slots}
    for slot in slots:
        axis = int(slot.axis == "in")
        take = np.arange(result[slot.module].shape[axis])
        take[slot.index] = slot.index[order]
        result[slot.module] = result[slot.module].index_select(axis, torch.from_numpy(take))
    return result


def _arranged(gains: np.ndarray, cell_of: np.ndarray) -> np.ndarray:
    """Return the order int64 [U] that gives each place of a cell to a unit with a high gain there.

    Units choose in turn, those first that lose most by their second choice; on small problems this gives up nothing
    measurable against the exact assignment. Within a cell, units keep their order.

    Args:
        gains: [U, cells].
        cell_of: int64 [U], the cell of each place.
    """
    room = np.bincount(cell_of, minlength=gains.shape[1])
    best_two = np.partition(gains, -2, axis=1)[:, -2:]
    open_gains = gains.copy()
    chosen = np.empty(len(gains), dtype=np.int64)
    for unit in np.argsort(best_two[:, 0] - best_two[:, 1], kind="stable"):
        cell = chosen[unit] = int(open_gains[unit].argmax())
        room[cell] -= 1
        if not room[cell]:
            open_gains[:, cell] = -np.inf
    order = np.empty(len(gains), dtype=np.int64)
    order[np.argsort(cell_of, kind="stable")] = np.argsort(chosen, kind="stable")
    return order
