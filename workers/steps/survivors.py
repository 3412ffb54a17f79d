"""What a gradual job has left of its network so far: units, masks, and weights as trained."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pruning.groups import coupling_groups
from pruning.masked import Masks, masked_copy
from pruning.network import CouplingGroup, Keep, Network
from pruning.patterns.tables import weight_of
from pruning.stages import build

GRADUAL = "gradual.safetensors"
"""The survivors of the last step but one."""
RESCORED = "gradual.npz"
"""Their saliency."""


@dataclass(frozen=True, kw_only=True)
class Survivors:
    """A network on its way from dense to the plan."""

    network: Network
    """Slimmed. Where masks do not nest, its masked weights have the values behind their mask, for the next masks to choose from."""
    keep: Keep
    """Units of the dense network by coupling group, in the order in which they lie; none of a group that went with its stage."""
    removed: tuple[str, ...] = ()
    """Stages that went."""
    masks: Masks = field(default_factory=dict)
    """What it was last trained under, by module."""
    nested: bool = False
    """Whether the next masks must lie within these. Not so where channels may go: block-rows change with every channel that
    goes, so each step chooses its masks anew."""
    patterns: Mapping[str, str] = field(default_factory=dict)
    """Pattern of every layer in `masks`, by its operator, where they nest."""
    floor: float
    """Least share of a coupling group on offer."""
    settled: Mapping[str, Any] = field(default_factory=dict)
    """Learning rate and precision, once they are found."""
    history: tuple[Mapping[str, Any], ...] = ()
    """One row per step done."""

    @property
    def masked(self) -> Network:
        """The network as it computes."""
        return masked_copy(self.network, self.masks)

    @property
    def behind(self) -> dict[str, Tensor]:
        """The weights the next masks choose from, by masked module; empty where masks nest."""
        return {} if self.nested else {name: weight_of(self.network.module, name).detach() for name in self.masks}

    def units(self, keep: Keep) -> dict[str, np.ndarray]:
        """Return units of this network as units of the dense one; groups that went before keep none."""
        return {group: units[keep.get(group, [])] for group, units in self.keep.items()}

    def save(self, path: Path) -> None:
        """Write everything into one file."""
        tensors = {f"keep/{group}": torch.from_numpy(np.asarray(units)) for group, units in self.keep.items()}
        tensors |= {f"weights/{name}": value.detach() for name, value in self.network.module.state_dict().items()}
        tensors |= {f"masks/{module}": mask for module, mask in self.masks.items()}
        facts = {
            "removed": list(self.removed),
            "nested": self.nested,
            "patterns": dict(self.patterns),
            "floor": self.floor,
            "settled": dict(self.settled),
            "history": list(self.history),
        }
        save_file(
            {name: value.clone().contiguous() for name, value in tensors.items()}, path, {"facts": json.dumps(facts)}
        )

    @classmethod
    def load(cls, path: Path, dense: Network, groups: tuple[CouplingGroup, ...]) -> "Survivors":
        """Return what `save` wrote of this dense network."""
        parts: dict[str, dict[str, Tensor]] = {"keep": {}, "weights": {}, "masks": {}}
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["facts"])
            for key in file.keys():  # noqa: SIM118 - not a mapping
                part, _, name = key.partition("/")
                parts[part][name] = file.get_tensor(key)
        keep = {group: units.numpy() for group, units in parts["keep"].items()}
        network = build(dense, groups, keep, facts["removed"])
        network.module.load_state_dict(parts["weights"])
        return cls(
            network=network,
            keep=keep,
            removed=tuple(facts["removed"]),
            masks=parts["masks"],
            nested=facts["nested"],
            patterns=facts["patterns"],
            floor=facts["floor"],
            settled=facts["settled"],
            history=tuple(facts["history"]),
        )


def whole(dense: Network, floor: float) -> Survivors:
    """Return the dense network, of which nothing has gone yet."""
    keep = {group.id: np.arange(group.units) for group in coupling_groups(dense) if not group.frozen}
    return Survivors(network=dense, keep=keep, floor=floor)
