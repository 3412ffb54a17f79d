"""One pass over mini-batches, every saliency of it: of units of coupling groups and, on request, of single weights."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pruning.network import CouplingGroup, Network
from pruning.saliency.scorers import (
    BatchNormTaylor,
    ClassAware,
    Gradients,
    Magnitude,
    Random,
    Scorer,
    SquaredTaylor,
)

Batches = Iterable[tuple[Tensor, Tensor]]
"""(images float32 [b, C, H, W], labels int64 [b]), a label being a row of the network's head."""
OTHER_CLASSES = "other_classes"
METHODS: dict[str, Callable[[Network, Sequence[CouplingGroup], int, Collection[str]], Scorer]] = {
    "squared_taylor": SquaredTaylor,
    "bn_taylor": BatchNormTaylor,
    "cass": ClassAware,
    OTHER_CLASSES: ClassAware,
    "magnitude": Magnitude,
    "random": Random,
}


@dataclass(frozen=True, kw_only=True)
class Others:
    """What `other_classes` is measured on: CASS on images of the classes the user did not choose."""

    network: Network
    """With a logit for each of those classes, where the scored network has none (its head sliced); the coupling groups
    must be the same.
    """
    batches: Batches


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Saliencies of all units, and of single weights where asked, by several methods, from one pass."""

    values: dict[str, dict[str, np.ndarray]]
    """method -> group id -> float64 [u], >= 0."""
    weights: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """method -> module name -> float32 in the shape of the module's weight, >= 0; empty unless asked for."""
    num_batches: int
    """Mini-batches of the user's classes that were used."""
    num_dropped: int
    """Mini-batches with a loss or gradient that is not finite; they count for nothing."""


def score(
    network: Network,
    groups: Sequence[CouplingGroup],
    batches: Batches,
    method: str,
    seed: int = 0,
    *,
    others: Others | None = None,
) -> dict[str, np.ndarray]:
    """Return float64 [u] by group id for one method; see `score_all`."""
    return score_all(network, groups, batches, (method,), seed, others=others).values[method]


def score_all(
    network: Network,
    groups: Sequence[CouplingGroup],
    batches: Batches,
    methods: Sequence[str] = ("squared_taylor", "bn_taylor", "cass"),
    seed: int = 0,
    *,
    others: Others | None = None,
    weights: bool = False,
    behind: Mapping[str, Tensor] = MappingProxyType({}),
) -> Scores:
    """Return the saliency of every unit, and of every weight if asked, by every method, from one pass over `batches`.

    The network is left as it was; it runs in evaluation mode, so BatchNorm uses its running statistics. Only
    `channel_scores_from_weights` puts channels and weights on one scale: a unit's own saliency by `squared_taylor`,
    `bn_taylor` or `magnitude` is not the sum of its weights' saliencies.

    Args:
        network: the dense network, its head giving one logit per label.
        groups: coupling groups of that network.
        batches: images of the user's classes.
        methods: any of `METHODS`.
        seed: of the `random` method.
        others: read by `other_classes` alone. Where its head is not that of `network`, so is the shape of that layer's
            weight saliency.
        weights: whether to fill `Scores.weights`, for every linear layer and every convolution that is not grouped.
        behind: by module, the weights of a masked layer with the values they have behind their mask. They are what
            `Scores.weights` is about, at the gradient of the masked network (straight-through); units are scored as they are.

    Raises:
        ValueError: an unknown method, `other_classes` without `others`, or no mini-batch with finite gradients where a
            method needs them.
    """
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        raise ValueError(f"unknown saliency {unknown[0]!r}; there are {', '.join(METHODS)}")
    if OTHER_CLASSES in methods and others is None:
        raise ValueError(f"{OTHER_CLASSES!r} wants images of the classes that were not chosen")
    layers = _ungrouped(network) if weights else ()
    own = {name: METHODS[name](network, groups, seed, layers) for name in methods if name != OTHER_CLASSES}
    num_batches, num_dropped = _feed(own, network, groups, layers, batches)
    found = {name: (scorer, num_batches) for name, scorer in own.items()}
    if OTHER_CLASSES in methods and others is not None:
        scorer = METHODS[OTHER_CLASSES](others.network, groups, seed, layers)
        num_others, dropped = _feed({OTHER_CLASSES: scorer}, others.network, groups, layers, others.batches)
        found[OTHER_CLASSES] = (scorer, num_others)
        num_dropped += dropped
    for scorer, _ in found.values():
        scorer.behind = behind
    return Scores(
        values={name: found[name][0].units(found[name][1]) for name in methods},
        weights={name: found[name][0].weights(found[name][1]) for name in methods} if weights else {},
        num_batches=num_batches,
        num_dropped=num_dropped,
    )


def _ungrouped(network: Network) -> tuple[str, ...]:
    """Return the names of the linear layers and of the convolutions whose filters read every input channel."""
    called = {str(node.target) for node in network.module.graph.nodes if node.op == "call_module"}
    kinds = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
    modules = network.module.named_modules()
    return tuple(n for n, m in modules if n in called and isinstance(m, kinds) and getattr(m, "groups", 1) == 1)


def _feed(
    scorers: Mapping[str, Scorer],
    network: Network,
    groups: Sequence[CouplingGroup],
    layers: Collection[str],
    batches: Batches,
) -> tuple[int, int]:
    """Give the scorers the gradients of every mini-batch that has finite ones; return how many had and had not."""
    num_batches = num_dropped = 0
    if not any(scorer.needs_gradients for scorer in scorers.values()):
        return 0, 0
    wanted = {slot.module for group in groups for slot in group.slots} | set(layers)
    for images, labels in batches:
        gradients = _gradients(network, wanted, images, labels)
        if gradients is None:
            num_dropped += 1
            continue
        num_batches += 1
        for scorer in scorers.values():
            scorer.add(gradients)
    if not num_batches:
        raise ValueError(f"no mini-batch gave finite gradients ({num_dropped} dropped): are the weights finite?")
    return num_batches, num_dropped


def _gradients(network: Network, wanted: Collection[str], images: Tensor, labels: Tensor) -> Gradients | None:
    """Return the gradients of the parameters of the modules `wanted`, or None when something is not finite."""
    modules = dict(network.module.named_modules())
    parameters = {f"{name}.{leaf}": p for name in wanted for leaf, p in modules[name].named_parameters(recurse=False)}
    asked = {name: parameter.requires_grad for name, parameter in parameters.items()}
    network.module.eval()
    try:
        with torch.enable_grad():
            for parameter in parameters.values():
                parameter.requires_grad_(True)
            # In this layout convolutions on a CPU are nearly twice as fast.
            outputs = network.module(images.contiguous(memory_format=torch.channels_last))
            loss = functional.cross_entropy(outputs, labels)
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(asked[name])
    gradients = {name: gradient for name, gradient in zip(parameters, found, strict=True) if gradient is not None}
    finite = torch.isfinite(loss) and all(bool(torch.isfinite(gradient).all()) for gradient in gradients.values())
    return gradients if finite else None
