"""Analytic accelerator profiles: latency and energy by a model, where no device is on the desk.

Layout: `accelerator` (the cores, as numbers with their sources), `gemm` (layers as matrix products), `array` and
`dual_side` (how much work a core makes of a layer), `cost` (work to cycles and energy), `model` (one operator),
`table` (a latency table), `reference` (the published points it is held against).
"""

from lut.analytic.accelerator import (
    ACCELERATORS,
    CRISP,
    DENSE,
    DEVICES,
    DUAL_SIDE,
    FLEXIBLE,
    FLEXIBLE_COMPRESSED,
    RIGID,
    Accelerator,
    Energies,
)
from lut.analytic.cost import Cost
from lut.analytic.model import ACTIVATION_DENSITY, density, energy_uj, operator_cost
from lut.analytic.table import RUNTIME, analytic_profile, analytic_table

__all__ = [
    "ACCELERATORS",
    "ACTIVATION_DENSITY",
    "CRISP",
    "DENSE",
    "DEVICES",
    "DUAL_SIDE",
    "FLEXIBLE",
    "FLEXIBLE_COMPRESSED",
    "RIGID",
    "RUNTIME",
    "Accelerator",
    "Cost",
    "Energies",
    "analytic_profile",
    "analytic_table",
    "density",
    "energy_uj",
    "operator_cost",
]
