"""Training under masks, for loops that know an optimiser and nothing else.

Between optimiser steps a network holds its masked weights as exact zeros: forward passes, evaluation and `state_dict`
see the masked network, and gradients are those of the masked weights. Around a step, hooks on the optimiser put back the
values behind the mask, so that they learn too (straight-through estimator).
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from pruning.masked import Masks, apply_masks
from pruning.network import Network

DECAY = 2e-4
MODES = ("ste", "fixed")


class MaskedTraining:
    """Keeps a network masked while an optimiser trains it.

    `ste`: every step moves W by the gradient at `W * mask` plus `decay * (1 - mask) * W` (SR-STE, Zhou et al., arXiv
    2102.04010), so that weights behind the mask go on learning and may come back at the next `swap`.
    `fixed`: what is masked takes no part: its gradient is zero before any clipping, and so is its weight after each step.

    Use: `attach` to each optimiser that trains the network, `apply` after anything else wrote weights (a reset), `swap`
    between stages, `finish` at the end. Only one of these objects may be at work on a network.
    """

    def __init__(self, network: Network, masks: Masks, *, mode: str = "ste", decay: float = DECAY) -> None:
        """Mask `network` in place. Raises ValueError for another mode, a negative decay or a mask of the wrong shape."""
        if mode not in MODES or decay < 0:
            raise ValueError(f"mode is one of {', '.join(MODES)}, decay is >= 0: {mode!r}, {decay}")
        self.mode, self.decay = mode, decay
        self._module = network.module
        self._optimizer: Optimizer | None = None
        self._handles: list[RemovableHandle] = []
        self._hidden: dict[str, Tensor] = {}
        self._masks = dict(masks)
        self.apply()

    def apply(self) -> None:
        """Mask the network as it is now; the values behind the mask are those it holds."""
        hidden = {name: self._weight(name).detach().clone() for name in self._masks} if self.mode == "ste" else {}
        apply_masks(self._module, self._masks)
        self._hidden = hidden

    def attach(self, optimizer: Optimizer) -> None:
        """Follow this optimiser's steps, and no longer another's."""
        self._detach()
        self._optimizer = optimizer
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        if self.mode == "fixed":
            for name, mask in self._masks.items():
                hook = partial(_silence, mask)
                handle = self._weight(name).register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
                self._handles.append(handle)

    def swap(self, masks: Masks) -> None:
        """Train under other masks from now on; in `ste`, what comes back has the value it had behind the old masks."""
        self._unveil()
        self._masks = dict(masks)
        self.apply()
        if self._optimizer is not None:
            self.attach(self._optimizer)

    def finish(self) -> None:
        """Leave the network masked, its masked weights exactly zero, and the optimiser alone."""
        self._detach()
        self._optimizer = None
        self._hidden = {}
        apply_masks(self._module, self._masks)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the values behind the masks, by module name: what a checkpoint needs beside the network's own state."""
        return {name: value.clone() for name, value in self._hidden.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state_dict()`, once the network has its own state back."""
        self._hidden = {name: value.to(self._weight(name).device, copy=True) for name, value in state.items()}
        apply_masks(self._module, self._masks)

    def _weight(self, name: str) -> nn.Parameter:
        weight = self._module.get_submodule(name).weight
        assert isinstance(weight, nn.Parameter)
        return weight

    def _unveil(self) -> None:
        """Put the values behind the masks back into the weights."""
        with torch.no_grad():
            for name, hidden in self._hidden.items():
                weight = self._weight(name)
                weight.copy_(torch.where(self._masks[name].to(weight.device), weight, hidden))

    def _before_step(self, *_: object) -> None:
        self._unveil()
        for name, hidden in self._hidden.items():
            gradient = self._weight(name).grad
            if gradient is not None:
                gradient.add_(hidden.masked_fill(self._masks[name].to(hidden.device), 0), alpha=self.decay)

    def _after_step(self, *_: object) -> None:
        self.apply()

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _silence(mask: Tensor, weight: Tensor) -> None:
    """Zero the gradient of masked weights as soon as it is there, so that clipping sees what is trained alone."""
    assert weight.grad is not None
    weight.grad.masked_fill_(~mask.to(weight.device), 0)
