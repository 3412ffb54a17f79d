"""Saliency: what the loss would miss if a unit of a coupling group were cut, one number for each unit.

All methods read one pass of gradients over mini-batches of the user's classes. Letters: u = units of a coupling group,
C = channels of a tensor, W = a weight, L = mean cross entropy of a mini-batch.
"""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from pruning.modules import ChannelAffine
from pruning.network import CouplingGroup, Network, Slot

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, ChannelAffine)  # noqa: SLF001 - no public base
CONVS = (nn.modules.conv._ConvNd, nn.Linear)  # noqa: SLF001
Gradients = Mapping[str, Tensor]
"""dL/dp by parameter name of `Network.module`."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Saliencies of all units by several methods, from one pass."""

    values: dict[str, dict[str, np.ndarray]]
    """method -> group id -> float64 [u], >= 0."""
    num_batches: int
    """Mini-batches that were used."""
    num_dropped: int
    """Mini-batches with a loss or gradient that is not finite; they count for nothing."""


def score(
    network: Network,
    groups: Sequence[CouplingGroup],
    batches: Iterable[tuple[Tensor, Tensor]],
    method: str,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Return float64 [u] by group id for one method; see `score_all`."""
    return score_all(network, groups, batches, (method,), seed).values[method]


def score_all(
    network: Network,
    groups: Sequence[CouplingGroup],
    batches: Iterable[tuple[Tensor, Tensor]],
    methods: Sequence[str] = ("squared_taylor", "bn_taylor", "cass"),
    seed: int = 0,
) -> Scores:
    """Return the saliency of every unit by every method, from one pass over `batches`.

    The network is left as it was; it runs in evaluation mode, so BatchNorm uses its running statistics.

    Args:
        network: the dense network, its head giving one logit per label.
        groups: coupling groups of that network.
        batches: (images float32 [b, C, H, W], labels int64 [b]) of the user's classes.
        methods: any of `METHODS`.
        seed: of the `random` method.

    Raises:
        ValueError: an unknown method, or no mini-batch with finite gradients where a method needs them.
    """
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        raise ValueError(f"unknown saliency {unknown[0]!r}; there are {', '.join(METHODS)}")
    scorers = {method: METHODS[method](network, groups, seed) for method in methods}
    num_batches = num_dropped = 0
    if any(scorer.needs_gradients for scorer in scorers.values()):
        for images, labels in batches:
            gradients = _gradients(network, groups, images, labels)
            if gradients is None:
                num_dropped += 1
                continue
            num_batches += 1
            for scorer in scorers.values():
                scorer.add(gradients)
        if not num_batches:
            raise ValueError(f"no mini-batch gave finite gradients ({num_dropped} dropped): are the weights finite?")
    values = {method: scorer.result(num_batches) for method, scorer in scorers.items()}
    return Scores(values=values, num_batches=num_batches, num_dropped=num_dropped)


class _Scorer:
    """Adds up one method's saliency over mini-batches."""

    needs_gradients = True

    def __init__(self, network: Network, groups: Sequence[CouplingGroup], seed: int) -> None:
        self.groups = groups
        self.seed = seed
        self.modules = dict(network.module.named_modules())
        self.totals = {group.id: np.zeros(group.units) for group in groups}

    def add(self, gradients: Gradients) -> None:
        """Take in the gradients of one mini-batch."""

    def result(self, num_batches: int) -> dict[str, np.ndarray]:
        """Return the mean over the mini-batches."""
        return {group: total / num_batches for group, total in self.totals.items()}

    def products(self, module: str, gradients: Gradients, names: Sequence[str]) -> list[Tensor]:
        """Return p * dL/dp for those parameters that took part in the loss."""
        parameters = dict(self.modules[module].named_parameters(recurse=False))
        full = {name: f"{module}.{name}" for name in names if name in parameters}
        return [parameters[name].detach() * gradients[key] for name, key in full.items() if key in gradients]


class _SquaredTaylor(_Scorer):
    """`mean over mini-batches of (sum of W * dL/dW over the unit's outgoing weights) ** 2` (method section 8).

    Outgoing weights are the input slices of all consumers; a group without consumers is judged by its own filters.
    """

    def add(self, gradients: Gradients) -> None:
        for group in self.groups:
            axis = "in" if any(slot.axis == "in" for slot in group.slots) else "out"
            unit = np.zeros(group.units)
            for slot in group.slots:
                if slot.axis == axis:
                    for product in self.products(slot.module, gradients, ("weight",)):
                        unit += _per_unit(product, slot, self.modules[slot.module])
            self.totals[group.id] += unit**2


class _BatchNormTaylor(_Scorer):
    """`mean of |sum over layers of (gamma * dL/dgamma + beta * dL/dbeta)|`; without BN, `sum W * dL/dW` of the filter.

    Source: HALP, arXiv 2210.06659, equation 3.
    """

    def __init__(self, network: Network, groups: Sequence[CouplingGroup], seed: int) -> None:
        super().__init__(network, groups, seed)
        self.normed = _followed_by_norm(network.module)

    def add(self, gradients: Gradients) -> None:
        for group in self.groups:
            unit = np.zeros(group.units)
            for slot in group.slots:
                module = self.modules[slot.module]
                filters = isinstance(module, CONVS) and slot.axis != "in" and slot.module not in self.normed
                names = ("weight", "bias") if isinstance(module, NORMS) else ("weight",) if filters else ()
                for product in self.products(slot.module, gradients, names):
                    unit += _per_unit(product, slot, module)
            self.totals[group.id] += np.abs(unit)


class _WeightScorer(_Scorer, ABC):
    """Sums a score of single weights over all convolution and linear weights that go with the unit."""

    @abstractmethod
    def weight_scores(self, name: str, weight: Tensor) -> Tensor:
        """Return the score of every weight, in the shape of `weight`."""

    def sums(self, num_batches: int) -> dict[str, np.ndarray]:
        """Return the sum over the unit's coupled weights: filters, slices in consumers, depthwise kernels."""
        for group in self.groups:
            for slot in group.slots:
                module = self.modules[slot.module]
                if isinstance(module, CONVS):
                    scores = self.weight_scores(f"{slot.module}.weight", module.weight.detach())
                    self.totals[group.id] += _per_unit(scores, slot, module) / num_batches
        return self.totals


class _ClassAware(_WeightScorer):
    """`S = |W * mean over mini-batches of |dL/dW||` over the unit's coupled weights (CRISP, arXiv 2311.14272)."""

    def __init__(self, network: Network, groups: Sequence[CouplingGroup], seed: int) -> None:
        super().__init__(network, groups, seed)
        self.absolute: dict[str, Tensor] = {}

    def add(self, gradients: Gradients) -> None:
        for name, gradient in gradients.items():
            if name in self.absolute:
                self.absolute[name] += gradient.abs()
            else:
                self.absolute[name] = gradient.abs()

    def weight_scores(self, name: str, weight: Tensor) -> Tensor:
        return (weight * self.absolute[name]).abs() if name in self.absolute else torch.zeros_like(weight)

    def result(self, num_batches: int) -> dict[str, np.ndarray]:
        return self.sums(num_batches)


class _Magnitude(_WeightScorer):
    """L2 norm of the unit's coupled weights; needs no data."""

    needs_gradients = False

    def weight_scores(self, name: str, weight: Tensor) -> Tensor:
        return weight.square()

    def result(self, num_batches: int) -> dict[str, np.ndarray]:
        return {group: np.sqrt(total) for group, total in self.sums(1).items()}


class _Random(_Scorer):
    """Uniform in 0..1, the same for a group whatever other groups there are; the baseline every method must beat."""

    needs_gradients = False

    def result(self, num_batches: int) -> dict[str, np.ndarray]:
        draws = {group.id: np.random.default_rng([self.seed, zlib.crc32(group.id.encode())]) for group in self.groups}
        return {group.id: draws[group.id].random(group.units) for group in self.groups}


METHODS: dict[str, Callable[[Network, Sequence[CouplingGroup], int], _Scorer]] = {
    "squared_taylor": _SquaredTaylor,
    "bn_taylor": _BatchNormTaylor,
    "cass": _ClassAware,
    "magnitude": _Magnitude,
    "random": _Random,
}


def _gradients(network: Network, groups: Sequence[CouplingGroup], images: Tensor, labels: Tensor) -> Gradients | None:
    """Return the gradients of the parameters that some slot names, or None when something is not finite."""
    wanted = {slot.module for group in groups for slot in group.slots}
    modules = dict(network.module.named_modules())
    parameters = {f"{name}.{leaf}": p for name in wanted for leaf, p in modules[name].named_parameters(recurse=False)}
    asked = {name: parameter.requires_grad for name, parameter in parameters.items()}
    network.module.eval()
    try:
        with torch.enable_grad():
            for parameter in parameters.values():
                parameter.requires_grad_(True)
            loss = functional.cross_entropy(network.module(images), labels)
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(asked[name])
    gradients = {name: gradient for name, gradient in zip(parameters, found, strict=True) if gradient is not None}
    finite = torch.isfinite(loss) and all(bool(torch.isfinite(gradient).all()) for gradient in gradients.values())
    return gradients if finite else None


def _per_unit(values: Tensor, slot: Slot, module: nn.Module) -> np.ndarray:
    """Return float64 [u]: values, in the shape of a parameter, summed over each unit's share of the slot's axis.

    Each part of a grouped convolution reads its own C / groups input channels.
    """
    if slot.axis == "in":
        blocks = getattr(
            module, "groups", 1
        )  # a grouped convolution keeps C / groups input channels for each of its parts
        per_channel = values.reshape(blocks, -1, *values.shape[1:2], values[0, 0].numel()).sum(dim=(1, 3)).flatten()
    else:
        per_channel = values.flatten(1).sum(dim=1) if values.dim() > 1 else values
    per_unit: np.ndarray = per_channel.double().cpu().numpy()[slot.index].sum(axis=1)
    return per_unit


def _followed_by_norm(module: fx.GraphModule) -> set[str]:
    """Return the names of the modules whose output goes straight into a normalisation."""
    modules = dict(module.named_modules())
    calls = [node for node in module.graph.nodes if node.op == "call_module"]
    return {
        str(node.target)
        for node in calls
        if any(user.op == "call_module" and isinstance(modules[str(user.target)], NORMS) for user in node.users)
    }
