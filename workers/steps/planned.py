"""The networks that `plan.json` describes, built again."""

import json
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

from pruning.groups import coupling_groups
from pruning.masked import Masks, apply_masks
from pruning.network import CouplingGroup, Keep, Network
from pruning.stages import build
from workers.context import StepContext

MAIN = "main"
"""Name of the job's own plan among `plans`; the others are baselines."""


def chosen_plans(context: StepContext) -> dict[str, dict[str, Any]]:
    """Return the chosen plan by name, the job's own first; one that found no network within the budget is left out."""
    plans = json.loads(context.path("plan.json").read_text())["plans"]
    return {name: plan["chosen"] for name, plan in plans.items() if plan["chosen"] is not None}


def kept_units(plan: dict[str, Any]) -> Keep:
    """Return the kept units of every coupling group of a plan, in the order in which they lie."""
    return {group: np.asarray(units, dtype=np.int64) for group, units in plan["keep"].items()}


def plan_masks(context: StepContext, name: str) -> dict[str, Tensor]:
    """Return the masks of a plan by module; empty where it has none."""
    found = load_file(context.path("masks.safetensors"))
    return {key.removeprefix(f"{name}/"): mask for key, mask in found.items() if key.startswith(f"{name}/")}


def slimmed(dense: Network, plan: dict[str, Any], masks: Masks) -> tuple[Network, tuple[CouplingGroup, ...]]:
    """Return the network of a plan with the dense network's weights, masked, and the dense network's coupling groups."""
    groups = coupling_groups(dense)
    network = build(dense, groups, kept_units(plan), plan["removed"])
    apply_masks(network.module, masks)
    return network, groups
