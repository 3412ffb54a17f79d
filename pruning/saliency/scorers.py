"""The methods: each adds up its saliency over mini-batches, for units of coupling groups and for single weights."""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, fx, nn

from pruning.modules import ChannelAffine
from pruning.network import CouplingGroup, Network, Slot
from pruning.saliency.units import per_unit

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, ChannelAffine)  # noqa: SLF001 - no public base
CONVS = (nn.modules.conv._ConvNd, nn.Linear)  # noqa: SLF001
Gradients = Mapping[str, Tensor]
"""dL/dp by parameter name of `Network.module`."""


class Scorer(ABC):
    """Adds up one method's saliency over mini-batches."""

    needs_gradients = True

    def __init__(
        self, network: Network, groups: Sequence[CouplingGroup], seed: int, layers: Collection[str] = ()
    ) -> None:
        self.groups = groups
        self.seed = seed
        self.layers = layers
        """Modules whose single weights are scored, too."""
        self.modules = dict(network.module.named_modules())
        self.behind: Mapping[str, Tensor] = {}
        """Values that masked layers' weights have behind their mask, by module: what `weights` scores."""
        self.totals = {group.id: np.zeros(group.units) for group in groups}

    def add(self, gradients: Gradients) -> None:  # noqa: B027 - methods that need no data take none in
        """Take in the gradients of one mini-batch."""

    @abstractmethod
    def weight_totals(self, layer: str, weight: Tensor) -> Tensor:
        """Return the saliency of every weight of a layer, were its values `weight`, summed over the mini-batches."""

    def units(self, num_batches: int) -> dict[str, np.ndarray]:
        """Return the mean over the mini-batches, float64 [u] by group id."""
        return {group: total / num_batches for group, total in self.totals.items()}

    def weights(self, num_batches: int) -> dict[str, Tensor]:
        """Return the mean over the mini-batches, float32 in the shape of the weight, by layer."""
        times = num_batches if self.needs_gradients else 1
        totals = {name: self.weight_totals(name, self.behind.get(name, self.weight(name))) for name in self.layers}
        return {name: (total / times).float().cpu() for name, total in totals.items()}

    def weight(self, layer: str) -> Tensor:
        """Return the weight of a module."""
        weight = self.modules[layer].weight
        assert isinstance(weight, Tensor)
        return weight.detach()

    def products(self, module: str, gradients: Gradients, names: Sequence[str]) -> list[Tensor]:
        """Return p * dL/dp for those parameters that took part in the loss."""
        parameters = dict(self.modules[module].named_parameters(recurse=False))
        full = {name: f"{module}.{name}" for name in names if name in parameters}
        return [parameters[name].detach() * gradients[key] for name, key in full.items() if key in gradients]

    def per_unit(self, values: Tensor, slot: Slot) -> np.ndarray:
        """Return float64 [u]: values, in the shape of a parameter of the slot's module, summed for each unit."""
        return per_unit(values, slot, getattr(self.modules[slot.module], "groups", 1))


class SquaredTaylor(Scorer):
    """`mean over mini-batches of (sum of W * dL/dW over the unit's outgoing weights) ** 2` (method section 8).

    Outgoing weights are the input slices of all consumers; a group without consumers is judged by its own filters.
    A single weight: `mean of (W * dL/dW) ** 2`.
    """

    def __init__(
        self, network: Network, groups: Sequence[CouplingGroup], seed: int, layers: Collection[str] = ()
    ) -> None:
        super().__init__(network, groups, seed, layers)
        self.squares = {name: torch.zeros_like(self.weight(name)) for name in layers}

    def add(self, gradients: Gradients) -> None:
        for group in self.groups:
            axis = "in" if any(slot.axis == "in" for slot in group.slots) else "out"
            unit = np.zeros(group.units)
            for slot in group.slots:
                if slot.axis == axis:
                    for product in self.products(slot.module, gradients, ("weight",)):
                        unit += self.per_unit(product, slot)
            self.totals[group.id] += unit**2
        for name, total in self.squares.items():
            if (gradient := gradients.get(f"{name}.weight")) is not None:
                total += gradient.square()

    def weight_totals(self, layer: str, weight: Tensor) -> Tensor:
        return weight.square() * self.squares[layer]


class BatchNormTaylor(Scorer):
    """`mean of |sum over layers of (gamma * dL/dgamma + beta * dL/dbeta)|`; without BN, `sum W * dL/dW` of the filter.

    Source: HALP, arXiv 2210.06659, equation 3. A single weight has the share `|W| / sum of |W| over its filter` of the
    mean absolute term of its own output channel, so that a filter's weights add up to the channel in that layer.
    """

    def __init__(
        self, network: Network, groups: Sequence[CouplingGroup], seed: int, layers: Collection[str] = ()
    ) -> None:
        super().__init__(network, groups, seed, layers)
        self.norms = _norms_behind(network.module)
        self.affine = {name: norm for name in layers if (norm := self._affine_norm(name))}
        self.channels = {name: torch.zeros(len(self.weight(name)), dtype=torch.float64) for name in layers}

    def add(self, gradients: Gradients) -> None:
        for group in self.groups:
            unit = np.zeros(group.units)
            for slot in group.slots:
                module = self.modules[slot.module]
                filters = isinstance(module, CONVS) and slot.axis != "in" and slot.module not in self.norms
                names = ("weight", "bias") if isinstance(module, NORMS) else ("weight",) if filters else ()
                for product in self.products(slot.module, gradients, names):
                    unit += self.per_unit(product, slot)
            self.totals[group.id] += np.abs(unit)
        for name, total in self.channels.items():
            names = ("weight", "bias") if name in self.affine else ("weight",)
            products = self.products(self.affine.get(name, name), gradients, names)
            terms = [product.flatten(1).sum(1) if product.dim() > 1 else product for product in products]
            total += sum(terms, torch.zeros(())).double().cpu().abs()

    def weight_totals(self, layer: str, weight: Tensor) -> Tensor:
        sizes = weight.abs().flatten(1).double().cpu()
        shares = sizes / sizes.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
        return (shares * self.channels[layer][:, None]).view(weight.shape)

    def _affine_norm(self, layer: str) -> str:
        """Return the norm behind a layer if it has a scale for each of its output channels; else an empty name."""
        norm = self.norms.get(layer, "")
        scale = getattr(self.modules[norm], "weight", None) if norm else None
        return norm if isinstance(scale, Tensor) and scale.shape == (len(self.weight(layer)),) else ""


class _Additive(Scorer):
    """A unit's saliency is that of its weights, summed over all convolutions and linear layers it goes through."""

    def sums(self, num_batches: int) -> dict[str, np.ndarray]:
        """Return the sum over the unit's coupled weights: filters, slices in consumers, depthwise kernels."""
        totals = {group.id: np.zeros(group.units) for group in self.groups}
        for group in self.groups:
            for slot in group.slots:
                if isinstance(self.modules[slot.module], CONVS):
                    scores = self.weight_totals(slot.module, self.weight(slot.module))
                    totals[group.id] += self.per_unit(scores, slot) / num_batches
        return totals


class ClassAware(_Additive):
    """`S = |W * mean over mini-batches of |dL/dW||` over the unit's coupled weights (CRISP, arXiv 2311.14272)."""

    def __init__(
        self, network: Network, groups: Sequence[CouplingGroup], seed: int, layers: Collection[str] = ()
    ) -> None:
        super().__init__(network, groups, seed, layers)
        self.absolute: dict[str, Tensor] = {}

    def add(self, gradients: Gradients) -> None:
        for name, gradient in gradients.items():
            if name in self.absolute:
                self.absolute[name] += gradient.abs()
            else:
                self.absolute[name] = gradient.abs()

    def weight_totals(self, layer: str, weight: Tensor) -> Tensor:
        name = f"{layer}.weight"
        return (weight * self.absolute[name]).abs() if name in self.absolute else torch.zeros_like(weight)

    def units(self, num_batches: int) -> dict[str, np.ndarray]:
        return self.sums(num_batches)


class Magnitude(_Additive):
    """L2 norm of the unit's coupled weights; needs no data. A single weight, so that sums make sense: `W ** 2`."""

    needs_gradients = False

    def weight_totals(self, layer: str, weight: Tensor) -> Tensor:
        return weight.square()

    def units(self, num_batches: int) -> dict[str, np.ndarray]:
        return {group: np.sqrt(total) for group, total in self.sums(1).items()}


class Random(Scorer):
    """Uniform in 0..1, the same for a group or layer whatever others there are; the baseline every method must beat."""

    needs_gradients = False

    def weight_totals(self, layer: str, weight: Tensor) -> Tensor:
        return torch.from_numpy(self._draw(f"{layer}.weight").random(weight.shape, dtype=np.float32))

    def units(self, num_batches: int) -> dict[str, np.ndarray]:
        return {group.id: self._draw(group.id).random(group.units) for group in self.groups}

    def _draw(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])


def _norms_behind(module: fx.GraphModule) -> dict[str, str]:
    """Return, for each module whose output goes straight into a normalisation, the name of that normalisation."""
    modules = dict(module.named_modules())
    calls = [node for node in module.graph.nodes if node.op == "call_module"]
    return {
        str(node.target): str(user.target)
        for node in calls
        for user in node.users
        if user.op == "call_module" and isinstance(modules[str(user.target)], NORMS)
    }
