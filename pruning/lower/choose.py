"""Which masked layers are worth lowering on a device: whole networks are measured with and without them.

A layer by itself does not tell. What a gather costs depends on the layouts around it, and what a layer does not read
need not be computed before it.
"""

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from lut.measure.networks import measure_models
from lut.profile import DeviceProfile
from pruning.lower.lists import lists_of
from pruning.lower.rewrite import kept_dense, lower
from pruning.masked import Masks
from pruning.network import Network
from pruning.onnx_export import write
from pruning.program import program

Measure = Callable[[Sequence[Network]], Sequence[float]]
"""Latencies of networks, timed in turns in one run; any unit."""
SURE = 0.75
"""A layer that takes less than this share of its dense time when lowered, alone, needs no second opinion."""
HOPELESS = 2.0
"""Nor one that takes this many times as long."""
_AT_ONCE = 6
"""Networks that are compared in one run: a large one is held in memory twice."""


def latency_ms(profile: DeviceProfile, *, seconds: float = 0.5) -> Measure:
    """Return a `Measure`: p50 in ms on this machine, in the profile's runtime, over `seconds` of each network."""

    def measure(networks: Sequence[Network]) -> list[float]:
        models = [program(network, write(network, profile.batch)) for network in networks]
        timings = measure_models(models, profile, min_seconds=seconds, rounds=5, min_runs=2)
        return [timing.p50_ms for timing in timings]

    return measure


def choose(
    network: Network, masks: Masks, measure: Measure, times: Mapping[str, tuple[float, float]] | None = None
) -> frozenset[str]:
    """Return the layers of `masks` worth lowering: `lower({...only these})` was the fastest network measured.

    Layers that `times` clears of doubt are lowered, or stay dense. The others stand or fall by kind: layers of one
    shape with lists of one length. All doubtful ones are lowered, then each kind is left dense in turn; kinds without
    which the network is faster are dropped, and what remains is measured once more beside all and none. The layers of
    `masks` that are not returned stay dense: their zeros cost and save nothing.

    Args:
        measure: times whole networks on the device.
        times: time of each layer by itself, (dense, lowered), any unit (`pruning.lower.times`); a layer without is
            doubtful.

    Errors as in `lower`.
    """
    ratios = {name: lowered / dense for name, (dense, lowered) in (times or {}).items()}
    names = sorted(name for name in set(masks) - set(kept_dense(network, masks)) if ratios.get(name, 1.0) < HOPELESS)
    kinds: dict[tuple[object, ...], set[str]] = {}
    for name in names:
        if ratios.get(name, 1.0) >= SURE:
            kinds.setdefault(_kind(network, masks, name), set()).add(name)
    every, groups = frozenset(names), list(kinds.values())
    paying = every
    for first in range(0, len(groups), _AT_ONCE):
        some = groups[first : first + _AT_ONCE]
        together, *without = measure([_only(network, masks, every - left) for left in (set[str](), *some)])
        paying = paying.difference(*(left for left, ms in zip(some, without, strict=True) if ms < together))
    candidates = list(dict.fromkeys([paying, every, frozenset[str]()]))
    latencies = measure([_only(network, masks, chosen) for chosen in candidates])
    return min(zip(latencies, range(len(candidates)), candidates, strict=True))[2]


def _only(network: Network, masks: Masks, names: frozenset[str]) -> Network:
    return lower(network, {name: masks[name] for name in names})


def _kind(network: Network, masks: Masks, name: str) -> tuple[object, ...]:
    rows, layer = lists_of(masks[name]), network.module.get_submodule(name)
    node = next(node for node in network.module.graph.nodes if node.op == "call_module" and node.target == name)
    assert rows is not None
    stride = layer.stride if isinstance(layer, nn.Conv2d) else ()
    return (*masks[name].shape, stride, node.meta["shape"], rows.tile_out, rows.longest)
