"""Masks of a network: by module name, which weights stay; a weight that is masked is exactly zero."""

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from pruning.network import Network

Masks = Mapping[str, Tensor]
"""Bool, in the shape of the module's weight, by module name: True where the weight stays."""


def apply_masks(module: nn.Module, masks: Masks) -> None:
    """Set the masked weights to zero, in place. Raises ValueError for a mask that is not its weight's shape."""
    with torch.no_grad():
        for name, mask in masks.items():
            weight = module.get_submodule(name).weight
            if not isinstance(weight, Tensor) or weight.shape != mask.shape or mask.dtype != torch.bool:
                raise ValueError(f"the mask of {name!r} must be bool in the shape of its weight")
            # Not a product: zero times infinity is not zero.
            weight.masked_fill_(~mask.to(weight.device), 0)


def masked_copy(network: Network, masks: Masks) -> Network:
    """Return a copy of `network` whose masked weights are zero; errors as in `apply_masks`."""
    module = copy.deepcopy(network.module)
    apply_masks(module, masks)
    return replace(network, module=module)
