"""`python -m bench analytic [--network NAME] [--patterns ID...] [--json]`: ResNet-50 on accelerators that are models only.

Latency and energy of the whole network, batch 1, int8, for each core and pattern, relative to the dense network on the
dense tensor core; `best_layer_speedup` is the largest of any layer, which is what an "up to" means. Nothing here is
measured: `lut.analytic` computes it. First convolution and classifier stay dense (method section 2); pools and sums
count too. Density is what the fitted patterns keep of all weights, so it lies above the pattern's own.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from lut.analytic import ACCELERATORS, ACTIVATION_DENSITY, DENSE, Accelerator, Cost, density, operator_cost
from lut.pattern import Pattern
from lut.request import num_weights
from lut.signature import OpSignature
from pruning.architectures import build
from pruning.groups import coupling_groups
from pruning.operators import operators
from pruning.trace import trace

PATTERNS = (
    "dense", "2:4", "2:8", "2:4+64x64/tap@1/2", "2:4+64x64/tap@1/4", "2:4+64x64/tap@1/8",
    "2:4+16x16/tap@1/2", "2:4+16x16/tap@1/4", "2:4+16x16/tap@1/8",
)  # fmt: skip
DISCLAIMER = (
    "Figures of an analytic model (lut.analytic), not measurements: no such device was run. "
    f"Activation density {ACTIVATION_DENSITY:g}."
)
Layer = tuple[OpSignature, int, int, bool]
"""(signature, c_in, c_out, whether it takes the pattern)."""


def main(arguments: Sequence[str]) -> int:
    """Print one row per accelerator and pattern; return 0."""
    parser = argparse.ArgumentParser(prog="python -m bench analytic", description=__doc__)
    parser.add_argument("--network", default="torchvision/resnet50")
    parser.add_argument("--patterns", nargs="+", default=list(PATTERNS), help="ids, as in lut/pattern.py")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(arguments)
    layers = _layers(options.network)
    if not options.json:
        print(f"{DISCLAIMER}\n")
        print(
            "| accelerator | pattern | density | latency us | energy uJ | speed-up | energy gain | best layer's speed-up |"
        )
        print("|---|---|---|---|---|---|---|---|")
    base = _costs(DENSE, Pattern(), layers)
    for accelerator in ACCELERATORS:
        for name in options.patterns:
            row = _row(options.network, accelerator, Pattern.parse(name), layers, base)
            print(json.dumps(row) if options.json else _line(row), flush=True)
    return 0


def _layers(network: str) -> list[Layer]:
    """Return the operators of a network at its dense widths; the first and the last with weights take no pattern."""
    traced = trace(build(network, 1000).eval(), (3, 224, 224))
    groups = coupling_groups(traced)
    widths = {group.id: group.units for group in groups}
    found = [(op.signature, op.c_in.at(widths), op.c_out.at(widths)) for op in operators(traced, groups)]
    weighted = [i for i, (signature, _, _) in enumerate(found) if signature.kind in ("conv", "linear")]
    return [(*layer, i in weighted[1:-1]) for i, layer in enumerate(found)]


def _row(
    network: str, accelerator: Accelerator, pattern: Pattern, layers: list[Layer], base: list[Cost]
) -> dict[str, Any]:
    """Return one row; operators run one after the other, so latencies and energies of the network are sums."""
    costs = _costs(accelerator, pattern, layers)
    latency_us, energy_uj = sum(c.latency_us for c in costs), sum(c.energy_uj for c in costs)
    return {
        "network": network,
        "accelerator": accelerator.name,
        "pattern": pattern.id,
        "density": _density(pattern, layers),
        "latency_us": latency_us,
        "energy_uj": energy_uj,
        "speedup": sum(c.latency_us for c in base) / latency_us,
        "energy_gain": sum(c.energy_uj for c in base) / energy_uj,
        "best_layer_speedup": max(b.latency_us / c.latency_us for b, c in zip(base, costs, strict=True)),
        "source": "analytic model, not measured",
    }


def _costs(accelerator: Accelerator, pattern: Pattern, layers: list[Layer]) -> list[Cost]:
    return [
        operator_cost(accelerator, signature, c_in, c_out, pattern=pattern if masked else Pattern())
        for signature, c_in, c_out, masked in layers
    ]


def _density(pattern: Pattern, layers: list[Layer]) -> float:
    kept = total = 0.0
    for signature, c_in, c_out, masked in layers:
        weights = num_weights(signature, c_in, c_out)
        taps = signature.kernel[0] * signature.kernel[1]
        total += weights
        groups = signature.groups
        kept += weights * (density(pattern, c_in // groups, c_out // groups, taps) if masked and weights else 1.0)
    return kept / total


def _line(row: dict[str, Any]) -> str:
    return (
        f"| {row['accelerator']} | {row['pattern']} | {row['density']:.3f} | {row['latency_us']:,.0f} "
        f"| {row['energy_uj']:,.0f} | {row['speedup']:.2f} | {row['energy_gain']:.2f} | {row['best_layer_speedup']:.2f} |"
    )
