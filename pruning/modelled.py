"""What accelerators that exist as models only would take for a network, before and after pruning: arithmetic, nothing is run."""

from collections.abc import Mapping
from dataclasses import dataclass

from lut.analytic import ACCELERATORS, Cost, density, operator_cost
from lut.pattern import Pattern
from lut.request import num_macs, num_weights
from lut.signature import OpSignature
from pruning.groups import coupling_groups
from pruning.network import Network
from pruning.operators import operators, unpriced


@dataclass(frozen=True, kw_only=True)
class ModelledCore:
    """One core, dense and pruned network; operators run one after the other, so these are sums."""

    name: str
    dense_us: float
    """Of one batch."""
    slim_us: float
    dense_uj: float
    slim_uj: float
    best_layer_speedup: float
    """Largest of any layer that stayed: what an "up to" means."""


@dataclass(frozen=True, kw_only=True)
class ModelledLayer:
    """One layer with weights."""

    name: str
    """Of its operator."""
    pattern: str
    """`dense` where it has no mask."""
    density: float
    """Weights kept, as a share of the dense network's: narrower and masked alike; 0 where the layer is gone."""
    speedups: tuple[float | None, ...]
    """Dense over pruned latency by core, in the order of `Modelled.cores`; None where the layer is gone."""


@dataclass(frozen=True, kw_only=True)
class Modelled:
    """A pruned network on every core of `lut.analytic`."""

    cores: tuple[ModelledCore, ...]
    layers: tuple[ModelledLayer, ...]
    """Of the dense network, in graph order."""
    macs_share: float
    """Multiply-accumulates with kept weights, as a share of the dense network's."""
    unmodelled: tuple[str, ...]
    """What no model covers (attention, LayerNorm, ...), left out of every figure."""


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """An operator at its channel counts."""

    signature: OpSignature
    c_in: int
    c_out: int
    pattern: Pattern
    costs: tuple[Cost, ...]
    """By core."""

    @property
    def share(self) -> float:
        """Share of the weights that the pattern keeps."""
        groups, taps = self.signature.groups, self.signature.kernel[0] * self.signature.kernel[1]
        if self.pattern.is_dense:
            return 1.0
        return density(self.pattern, self.c_in // groups, self.c_out // groups, taps)

    @property
    def weights(self) -> float:
        """Weights kept; 0 for an operator that has none."""
        return self.share * num_weights(self.signature, self.c_in, self.c_out)

    @property
    def macs(self) -> float:
        """Multiply-accumulates with kept weights, for one image."""
        return self.share * num_macs(self.signature, self.c_in, self.c_out) if self.weights else 0.0


def modelled(dense: Network, slim: Network, patterns: Mapping[str, Pattern], batch: int = 1) -> Modelled:
    """Return latency and energy of both networks on every core of `lut.analytic`, each core beside itself.

    `slim` is slimmed, not lowered: these cores take a mask as it is, element-wise N:M included. `patterns` are those of its
    masked layers, by operator; the others are dense.
    """
    before, after = _layers(dense, {}, batch), _layers(slim, patterns, batch)
    weighted = {name: layer for name, layer in before.items() if layer.weights}
    cores = []
    for i, core in enumerate(ACCELERATORS):
        dense_costs, slim_costs = ([layer.costs[i] for layer in found.values()] for found in (before, after))
        ratios = [_speedups(layer, after[name])[i] for name, layer in weighted.items() if name in after]
        cores.append(
            ModelledCore(
                name=core.name,
                dense_us=sum(cost.latency_us for cost in dense_costs),
                slim_us=sum(cost.latency_us for cost in slim_costs),
                dense_uj=sum(cost.energy_uj for cost in dense_costs),
                slim_uj=sum(cost.energy_uj for cost in slim_costs),
                best_layer_speedup=max(ratios, default=1.0),
            )
        )
    return Modelled(
        cores=tuple(cores),
        layers=tuple(_compared(name, layer, after.get(name)) for name, layer in weighted.items()),
        macs_share=sum(layer.macs for layer in after.values()) / max(1.0, sum(layer.macs for layer in before.values())),
        unmodelled=unpriced(dense, coupling_groups(dense)),
    )


def _layers(network: Network, patterns: Mapping[str, Pattern], batch: int) -> dict[str, _Layer]:
    groups = coupling_groups(network)
    widths = {group.id: group.units for group in groups}
    found = {}
    for operator in operators(network, groups):
        counts = operator.c_in.at(widths), operator.c_out.at(widths)
        pattern = patterns.get(operator.name, Pattern())
        costs = tuple(
            operator_cost(core, operator.signature, *counts, pattern=pattern, batch=batch) for core in ACCELERATORS
        )
        found[operator.name] = _Layer(
            signature=operator.signature, c_in=counts[0], c_out=counts[1], pattern=pattern, costs=costs
        )
    return found


def _speedups(before: _Layer, after: _Layer) -> tuple[float, ...]:
    return tuple(b.latency_us / a.latency_us for b, a in zip(before.costs, after.costs, strict=True))


def _compared(name: str, before: _Layer, after: _Layer | None) -> ModelledLayer:
    if after is None:
        return ModelledLayer(name=name, pattern="dense", density=0.0, speedups=(None,) * len(ACCELERATORS))
    return ModelledLayer(
        name=name,
        pattern=after.pattern.id,
        density=after.weights / before.weights,
        speedups=_speedups(before, after),
    )
