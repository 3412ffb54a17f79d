"""The published points the model is held against: four ResNet-50 layers on the cores of the Sparseloop study.

The study calls them "resnet50_selected": M x K x N and the density of the activations, as its artefact names them.
Convolutions are unrolled (K = C_in * kh * kw) and N is padded to a power of two. Every figure is a sum over the four,
relative to the dense core at density 1.0 (arXiv 2205.05826, artefact of figure 15; method section 5).
"""

from lut.analytic.accelerator import DENSE, DUAL_SIDE, FLEXIBLE, FLEXIBLE_COMPRESSED, RIGID, Accelerator
from lut.analytic.model import operator_cost
from lut.pattern import Pattern
from lut.signature import OpSignature

GEMMS = ((512, 256, 1024, 0.82), (512, 128, 1024, 0.56), (128, 1152, 1024, 0.44), (512, 1024, 256, 0.27))
"""(M, K, N, activation density): a 1x1 into stage 3, a 1x1 and a 3x3 of stage 2, a 1x1 of stage 3."""
PATTERNS = {1.0: "dense", 0.5: "2:4", 0.25: "2:8"}
POINTS: tuple[tuple[Accelerator, float, float, float], ...] = (
    (RIGID, 1.0, 1.00, 1.10),
    (RIGID, 0.5, 2.00, 1.66),
    (RIGID, 0.25, 2.00, 1.66),
    (FLEXIBLE, 1.0, 1.00, 1.10),
    (FLEXIBLE, 0.5, 2.00, 1.66),
    (FLEXIBLE, 0.25, 2.21, 2.28),
    (FLEXIBLE_COMPRESSED, 0.25, 3.10, 2.89),
    (DUAL_SIDE, 1.0, 1.57, 0.62),
    (DUAL_SIDE, 0.5, 2.43, 1.20),
    (DUAL_SIDE, 0.25, 3.71, 1.95),
)
"""(core, weight density, speed-up, energy gain)."""


def totals(accelerator: Accelerator, density: float, activation_density: float | None = None) -> tuple[float, float]:
    """Return (cycles, energy in microjoules) summed over the four layers; one activation density for all, or each its own."""
    cycles = energy = 0.0
    for rows, depth, columns, own in GEMMS:
        signature = OpSignature(kind="linear", height=columns, width=1)
        found = operator_cost(
            accelerator,
            signature,
            depth,
            rows,
            pattern=Pattern.parse(PATTERNS[density]),
            activation_density=own if activation_density is None else activation_density,
        )
        cycles, energy = cycles + found.cycles, energy + found.energy_uj
    return cycles, energy


def gains(accelerator: Accelerator, density: float, activation_density: float | None = None) -> tuple[float, float]:
    """Return (speed-up, energy gain) of `accelerator` over the dense core, as in `POINTS`."""
    (cycles, energy), (base_cycles, base_energy) = totals(accelerator, density, activation_density), totals(DENSE, 1.0)
    return base_cycles / cycles, base_energy / energy
