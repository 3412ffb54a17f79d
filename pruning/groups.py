"""Coupling groups of a traced network, and channel counts as functions of their widths.

A unit is a class of channels that live and die together (`pruning.ids`); units that sit on the same axes of the same
modules are interchangeable and form one coupling group. Channels of a tensor: fixed + sum of multiplicity * width.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor

from pruning.ids import Identities, identify
from pruning.labels import varying_axes
from pruning.network import ChannelCount, CouplingGroup, Keep, Network, Slot

_Membership = tuple[int, tuple[tuple[int, int], ...], int, str]
"""What units of one group share: the first producing slot, (slot, positions) pairs, which tensors hold them, and why
they are frozen."""


_COUPLINGS: "WeakKeyDictionary[Network, Coupling]" = WeakKeyDictionary()


def coupling_groups(network: Network) -> tuple[CouplingGroup, ...]:
    """Return the coupling groups in the order of the layers that produce them.

    The network's input and its logits belong to no group. A group that an operator of unknown effect reads is `frozen`,
    with a sentence that names the operator; its slots are given all the same.
    """
    return coupling_of(network).groups


def coupling_of(network: Network) -> "Coupling":
    """Return what couples the channels of `network`, found once for each: nobody changes the graph of a network in place."""
    if (found := _COUPLINGS.get(network)) is None:
        found = _COUPLINGS[network] = Coupling(identify(network))
    return found


@dataclass(frozen=True, eq=False)
class Coupling:
    """The channel identities of a network with the groups they form; what `slim` and `operators` read."""

    identities: Identities
    """Labels of every tensor and slot."""

    @cached_property
    def labels(self) -> dict[str, np.ndarray]:
        """Label of each unit, int64 [units], by group id (frozen groups too)."""
        return {group_id: labels for group_id, (labels, _) in self._assembled.items()}

    @cached_property
    def groups(self) -> tuple[CouplingGroup, ...]:
        """See `coupling_groups`."""
        frozen = self.identities.frozen
        return tuple(
            CouplingGroup(id=group_id, units=len(labels), slots=slots, frozen=frozen.get(int(labels[0]), ""))
            for group_id, (labels, slots) in self._assembled.items()
        )

    @cached_property
    def _assembled(self) -> dict[str, tuple[np.ndarray, tuple[Slot, ...]]]:
        keys = list(self.identities.slots)
        where: dict[int, list[tuple[int, np.ndarray]]] = defaultdict(list)
        for number, labels in enumerate(self.identities.slots.values()):
            order = np.argsort(labels, kind="stable")
            names, starts = np.unique(labels[order], return_index=True)
            for name, positions in zip(names.tolist(), np.split(order, starts[1:]), strict=True):
                where[name].append((number, positions))
        members: dict[_Membership, list[int]] = defaultdict(list)
        held = self._held
        for label, places in where.items():
            produced = [number for number, _ in places if keys[number][1] != "in"]
            if label in self.identities.fixed or not produced:
                continue
            first = next((n for n in produced if keys[n][1] == "out"), produced[0])
            frozen = self.identities.frozen.get(label, "")
            members[(first, tuple((n, len(at)) for n, at in places), held[label], frozen)].append(label)
        return self._named(keys, where, members)

    @cached_property
    def _num_labels(self) -> int:
        return 1 + max((int(x.max()) for x in self.identities.tensors.values() if x.numel()), default=0)

    @cached_property
    def _held(self) -> list[int]:
        """A number for each label; labels that every tensor holds equally often have the same, others do not.

        A tensor that holds some units of a group more often than others would have no channel count linear in its width.
        """
        tensors = self.identities.tensors.values()
        held = np.zeros(self._num_labels, dtype=np.uint64)
        weights = np.random.default_rng(0).integers(1 << 63, size=len(tensors), dtype=np.uint64)
        for ids, weight in zip(tensors, weights, strict=True):
            axis = _channel_axis(ids)
            line = ids[tuple(slice(None) if d == axis else 0 for d in range(ids.ndim))]
            labels, times = np.unique(line.numpy(), return_counts=True)
            held[labels] += times.astype(np.uint64) * weight
        return [int(number) for number in held]

    @staticmethod
    def _named(
        keys: list[tuple[str, str]],
        where: dict[int, list[tuple[int, np.ndarray]]],
        members: dict[_Membership, list[int]],
    ) -> dict[str, tuple[np.ndarray, tuple[Slot, ...]]]:
        """Order units by where the first producer holds them, groups by producer; name groups after it."""
        found: list[tuple[int, int, np.ndarray, tuple[Slot, ...]]] = []
        for (first, *_), labels in members.items():
            at = {label: next(p for n, p in where[label] if n == first)[0] for label in labels}
            ordered = sorted(labels, key=at.__getitem__)
            slots = tuple(
                Slot(module=keys[n][0], axis=keys[n][1], index=np.stack([where[label][i][1] for label in ordered]))
                for i, (n, _) in enumerate(where[ordered[0]])
            )
            found.append((first, int(at[ordered[0]]), np.array(ordered), slots))
        result: dict[str, tuple[np.ndarray, tuple[Slot, ...]]] = {}
        seen = Counter[str]()
        for first, _, units, slots in sorted(found, key=lambda item: item[:2]):
            name = keys[first][0]
            seen[name] += 1
            result[name if seen[name] == 1 else f"{name}:{seen[name]}"] = (units, slots)
        return result

    @cached_property
    def _group_of(self) -> dict[int, str]:
        return {int(label): group.id for group in self.groups if not group.frozen for label in self.labels[group.id]}

    def axis(self, node_name: str) -> int:
        """Return the axis of a node's tensor along which its channels lie."""
        return _channel_axis(self.identities.tensors[node_name])

    def channels(self, node_name: str, axis: int | None = None) -> ChannelCount:
        """Return the channels of a node's tensor by widths; `axis` says where they lie (a single channel does not show)."""
        ids = self.identities.tensors[node_name]
        axis = _channel_axis(ids) if axis is None else axis % ids.ndim
        line = ids[tuple(slice(None) if d == axis else 0 for d in range(ids.ndim))]
        return self.count(line)

    def count(self, line: Tensor | np.ndarray) -> ChannelCount:
        """Return how many of these labelled positions stay, as a function of the widths of prunable groups."""
        labels, numbers = np.unique(np.asarray(line), return_counts=True)
        fixed = 0
        times: Counter[str] = Counter()
        for label, number in zip(labels.tolist(), numbers.tolist(), strict=True):
            if label in self._group_of:
                times[self._group_of[label]] += number
            else:
                fixed += number
        terms = tuple((group, number // len(self.labels[group])) for group, number in sorted(times.items()))
        return ChannelCount(fixed=fixed, terms=terms)

    def kept(self, keep: Keep) -> np.ndarray:
        """Return bool [labels]: whether each label's channels stay.

        Raises ValueError for an unknown group, for a frozen one that would change, and for indices that are not
        different units, at least one.
        """
        stay = np.ones(self._num_labels, dtype=bool)
        by_id = {group.id: group for group in self.groups}
        for group_id, units in keep.items():
            group, chosen = by_id.get(group_id), np.asarray(units)
            if group is None or (group.frozen and not np.array_equal(chosen, np.arange(group.units))):
                why = f"stays dense: {group.frozen}" if group else "does not exist"
                raise ValueError(f"coupling group {group_id!r} {why}")
            if (
                not len(chosen)
                or chosen.min() < 0
                or chosen.max() >= group.units
                or len(np.unique(chosen)) < len(chosen)
            ):
                raise ValueError(f"keep of {group_id!r} must be different indices below {group.units}, at least one")
            labels = self.labels[group_id]
            stay[labels] = False
            stay[labels[chosen]] = True
        return stay

    def moved(self, keep: Keep) -> np.ndarray:
        """Return int64 [labels]: whose channels take the place of each kept label's; its own where `keep` ascends."""
        comes = np.arange(len(self.kept(keep)))
        for group_id, units in keep.items():
            labels = self.labels[group_id]
            comes[labels[np.sort(units)]] = labels[units]
        return comes


def _channel_axis(ids: Tensor) -> int:
    return min(varying_axes(ids), default=1 if ids.ndim in (2, 4) else ids.ndim - 1)
