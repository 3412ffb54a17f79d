"""The networks that `plan.json` describes, built again."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

from pruning.groups import coupling_groups
from pruning.masked import Masks, apply_masks
from pruning.network import CouplingGroup, Keep, Network
from pruning.stages import build
from workers.context import StepContext

T = TypeVar("T")
MAIN = "main"
"""Name of the job's own plan among `plans`; the others are baselines."""
CHANNELS_ONLY = "channels_only"
"""Name of the plan without patterns."""
LENIENT = {"patterns_at_half": 0.5, "patterns_at_quarter": 0.25}
"""Plans for which what patterns lose counts less, by name: least squares gives back more of it than of what channels lose."""
RIVALS = (*LENIENT, CHANNELS_ONLY)
"""Plans that take the place of the job's own where they turn out better (`auto`)."""
FIRST_PLAN = "first_plan"
"""Name of the job's own plan once a rival has taken its place."""
CARRIED = "carried.safetensors"
"""Weights of a gradual job's own plan as they came through the steps, cut and masked."""


def plan_content(context: StepContext) -> dict[str, Any]:
    """Return what `plan.json` holds; from the repair on, with the plan the job continues with as its own."""
    content: dict[str, Any] = json.loads(context.path("plan.json").read_text())
    if (kept := kept_plan(context)) != MAIN:
        content["plans"] = renamed(content["plans"], kept)
        spent = content["plans"][MAIN]["chosen"]["other_costs"]
        for row in content["budgets"]:
            unit = 1 if row["id"] == "weight_bytes" else 1e6
            row |= {"planned": spent[row["id"]] / unit, "measured": None}  # the final measurement fills it in
    return content


def kept_plan(context: StepContext) -> str:
    """Return the name under which `plan.json` has the plan the job continues with."""
    name: str = context.spec["results"].get("reconstruct", {}).get("kept", MAIN)
    return name


def renamed(by_name: Mapping[str, T], kept: str) -> dict[str, T]:
    """Return what is known of plans with the one called `kept` as the job's own, first."""
    if kept == MAIN:
        return dict(by_name)
    rest = {name: one for name, one in by_name.items() if name not in (MAIN, kept)}
    return {MAIN: by_name[kept], FIRST_PLAN: by_name[MAIN], **rest}


def chosen_plans(context: StepContext) -> dict[str, dict[str, Any]]:
    """Return the chosen plan by name, the job's own first; one that found no network within the budget is left out."""
    plans = plan_content(context)["plans"]
    return {name: plan["chosen"] for name, plan in plans.items() if plan["chosen"] is not None}


def kept_units(plan: dict[str, Any]) -> Keep:
    """Return the kept units of every coupling group of a plan, in the order in which they lie."""
    return {group: np.asarray(units, dtype=np.int64) for group, units in plan["keep"].items()}


def plan_masks(context: StepContext, name: str) -> dict[str, Tensor]:
    """Return the masks of a plan by module; empty where it has none."""
    found = load_file(context.path("masks.safetensors"))
    stored = kept_plan(context) if name == MAIN else MAIN if name == FIRST_PLAN else name
    return {key.removeprefix(f"{stored}/"): mask for key, mask in found.items() if key.startswith(f"{stored}/")}


def slimmed(dense: Network, plan: dict[str, Any], masks: Masks) -> tuple[Network, tuple[CouplingGroup, ...]]:
    """Return the network of a plan with the dense network's weights, masked, and the dense network's coupling groups."""
    groups = coupling_groups(dense)
    network = build(dense, groups, kept_units(plan), plan["removed"])
    apply_masks(network.module, masks)
    return network, groups
