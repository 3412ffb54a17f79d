"""From weights to units: the sum over a unit's share of every layer it goes through."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from pruning.network import CouplingGroup, Slot


def channel_scores_from_weights(
    groups: Sequence[CouplingGroup], weights: Mapping[str, Tensor]
) -> dict[str, np.ndarray]:
    """Return float64 [u] by group id: the saliency of a unit's weights, summed over the layers it couples.

    These are its filters and its slices in the consumers, so that channels and weights are measured alike (method
    section 3). A weight belongs to a unit of its output and to one of its input, and counts for both.

    Args:
        groups: coupling groups of the network.
        weights: saliencies by module name in the shape of the weight, of layers that are not grouped; slots in other
            modules (depthwise kernels, norms) count for nothing.
    """
    scores = {group.id: np.zeros(group.units) for group in groups}
    for group in groups:
        for slot in group.slots:
            if slot.module in weights and slot.axis != "channel":
                scores[group.id] += per_unit(weights[slot.module], slot)
    return scores


def per_unit(values: Tensor, slot: Slot, num_parts: int = 1) -> np.ndarray:
    """Return float64 [u]: values, in the shape of a parameter, summed over each unit's share of the slot's axis.

    A grouped convolution has `num_parts` parts; each of them reads its own C / num_parts input channels.
    """
    if slot.axis == "in":
        blocks = values.reshape(num_parts, -1, *values.shape[1:2], values[0, 0].numel())
        per_channel = blocks.sum(dim=(1, 3)).flatten()
    else:
        per_channel = values.flatten(1).sum(dim=1) if values.dim() > 1 else values
    units: np.ndarray = per_channel.double().cpu().numpy()[slot.index].sum(axis=1)
    return units
