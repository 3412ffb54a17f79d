"""Repair every planned network by least squares on the user's images; baselines alike, so that plans can be compared."""

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from pruning.data import Dataset
from pruning.evaluate import accuracy
from pruning.export import to_safetensors
from pruning.network import Network
from pruning.reconstruct import NUM_IMAGES, keep_better, reconstruct
from workers.context import StepContext
from workers.steps.loading import dense_network, head_rows, job_images, weights
from workers.steps.planned import CARRIED, MAIN, RIVALS, chosen_plans, kept_units, plan_masks, renamed, slimmed


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """One plan's network after the repair."""

    network: Network
    figures: dict[str, Any]


def run(context: StepContext) -> dict[str, Any]:
    """Return each plan's accuracy as cut and after least squares, and which plan the job continues with; leave `repaired.safetensors`.

    Where patterns were on offer beside narrow channels (`auto`), the best of the job's own plan and its rivals on the selection split
    goes on: all of them keep all budgets.
    """
    dense = dense_network(context)
    data = job_images(context, dense)
    plans = chosen_plans(context)
    found: dict[str, Repaired] = {}
    known: dict[str, Repaired] = {}
    for done, (name, plan) in enumerate(plans.items()):
        context.progress(done / len(plans))
        network = _described(context, name, plan)
        found[name] = known[network] = known.get(network) or repair(context, dense, data, name, plan)
        context.metric(plan=name, **{key: found[name].figures[key] for key in ("accuracy_cut", "accuracy_repaired")})
    kept = best(context, data, found) if context.spec["job"]["patterns"] == "auto" else MAIN
    found, plans = renamed(found, kept), renamed(plans, kept)
    to_safetensors(found[MAIN].network, context.path("repaired.safetensors"))
    figures = {name: one.figures for name, one in found.items()}
    summary = {"accuracy_repaired": figures[MAIN]["accuracy_repaired"]}
    if kept != MAIN:
        summary |= {"gap": plans[MAIN]["gap"], "planned_ms": plans[MAIN]["measured_ms"]}
    return {"kept": kept, "plans": figures, "summary": summary}


def _described(context: StepContext, name: str, plan: dict[str, Any]) -> str:
    """Return what tells one plan's network, weights included, from another's."""
    carried = name == MAIN and context.path(CARRIED).exists()
    masks = {module: sha256(mask.numpy().tobytes()).hexdigest() for module, mask in plan_masks(context, name).items()}
    return json.dumps([carried, plan["keep"], plan["removed"], masks], sort_keys=True)


def best(context: StepContext, data: Dataset, found: dict[str, Repaired]) -> str:
    """Return the name of the plan to continue with: the job's own, unless a rival beats it on the selection split."""
    scores = {name: accuracy(found[name].network, data.selection) for name in (MAIN, *RIVALS) if name in found}
    # The first of equals: the knapsack's own choice.
    kept = max(scores, key=lambda name: (scores[name].overall, -scores[name].loss))
    if kept != MAIN:
        context.log(
            f"Kept: the plan {kept}. After least squares it has {scores[kept].overall:.1%} on the selection split, the first plan "
            f"{scores[MAIN].overall:.1%}; both keep the budgets."
        )
    return kept


def repair(context: StepContext, dense: Network, data: Dataset, name: str, plan: dict[str, Any]) -> Repaired:
    """Return the better of the network as cut and as reconstructed, judged on the selection split, with its figures.

    A gradual job's own plan is cut with the weights it was trained to on the way.
    """
    masks = plan_masks(context, name)
    cut, groups = slimmed(dense, plan, masks)
    if name == MAIN and (carried := context.path(CARRIED)).exists():
        cut.module.load_state_dict(weights(carried))
    rows = head_rows(context)
    before = accuracy(cut, data.reported, rows)
    figures: dict[str, Any] = {"accuracy_cut": before.overall, "accuracy_repaired": before.overall, "kept": "cut"}
    if context.spec["job"]["finetune"]["mode"] == "none":
        return Repaired(network=cut, figures=figures)
    sample = data.train.take(NUM_IMAGES, context.seed)
    images, _ = next(sample.batches(NUM_IMAGES))
    result = reconstruct(dense, cut, groups, kept_units(plan), images, masks=masks, seed=context.seed)
    network, _, _ = keep_better(cut, result.network, data.selection)
    figures["seconds"] = result.seconds
    figures["num_layers"] = len(result.layers)
    if network is not cut:
        figures |= {"kept": "repaired", "accuracy_repaired": accuracy(network, data.reported, rows).overall}
    return Repaired(network=network, figures=figures)
