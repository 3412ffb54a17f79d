"""Repair every planned network by least squares on the user's images; baselines alike, so that plans can be compared."""

from typing import Any

from pruning.data import Dataset
from pruning.evaluate import accuracy
from pruning.export import to_safetensors
from pruning.network import Network
from pruning.reconstruct import NUM_IMAGES, keep_better, reconstruct
from workers.context import StepContext
from workers.steps.loading import dense_network, head_rows, job_images
from workers.steps.planned import MAIN, chosen_plans, kept_units, plan_masks, slimmed


def run(context: StepContext) -> dict[str, Any]:
    """Return each plan's accuracy as cut and after least squares; leave `repaired.safetensors`."""
    dense = dense_network(context)
    data = job_images(context, dense)
    plans = chosen_plans(context)
    results = {}
    for done, (name, plan) in enumerate(plans.items()):
        context.progress(done / len(plans))
        network, results[name] = repair(context, dense, data, name, plan)
        context.metric(plan=name, **{key: results[name][key] for key in ("accuracy_cut", "accuracy_repaired")})
        if name == MAIN:
            to_safetensors(network, context.path("repaired.safetensors"))
    return {"plans": results, "summary": {"accuracy_repaired": results[MAIN]["accuracy_repaired"]}}


def repair(
    context: StepContext, dense: Network, data: Dataset, name: str, plan: dict[str, Any]
) -> tuple[Network, dict[str, Any]]:
    """Return the better of the network as cut and as reconstructed, judged on the selection split, with its figures."""
    masks = plan_masks(context, name)
    cut, groups = slimmed(dense, plan, masks)
    rows = head_rows(context)
    before = accuracy(cut, data.reported, rows)
    figures: dict[str, Any] = {"accuracy_cut": before.overall, "accuracy_repaired": before.overall, "kept": "cut"}
    if context.spec["job"]["finetune"]["mode"] == "none":
        return cut, figures
    sample = data.train.take(NUM_IMAGES, context.seed)
    images, _ = next(sample.batches(NUM_IMAGES))
    result = reconstruct(dense, cut, groups, kept_units(plan), images, masks=masks, seed=context.seed)
    better, _, _ = keep_better(cut, result.network, data.selection)
    figures["seconds"] = result.seconds
    figures["num_layers"] = len(result.layers)
    if better is not cut:
        figures |= {"kept": "repaired", "accuracy_repaired": accuracy(better, data.reported, rows).overall}
    return better, figures
