"""Load everything, find each class's output row, and take the dense network's measure: accuracy, latency, size."""

from typing import Any

import numpy as np
import torch

from pruning.data import Dataset
from pruning.evaluate import ClassMap, accuracy, class_rows
from pruning.export import num_macs, num_parameters
from pruning.groups import coupling_groups
from pruning.network import Network
from pruning.operators import operators
from workers.context import StepContext, StepProblem
from workers.steps.conditions import conditions, patterns_on_offer
from workers.steps.loading import full_network, images, problems, settle_threads, with_head
from workers.steps.others import other_rows
from workers.steps.targets import Target, dense_program, targets

PREDICTED_IMAGES = 32
"""Training images of each class that are predicted to find or to confirm its output row."""


def run(context: StepContext) -> dict[str, Any]:
    """Return rows, classes, budget_ms and the dense network's figures; leave `dense.onnx`."""
    job, dataset = context.spec["job"], context.spec["dataset"]
    wanted = targets(context)  # a runtime that is absent is said first
    classes = class_names(job["classes"], dataset["classes"])
    full = full_network(context)
    settle_threads(full)
    data = images(context, classes, full.input_shape[0], context.progress)
    if data.skipped:
        context.warning(
            "images_skipped", f"{len(data.skipped)} images of these classes do not decode and are left out."
        )
    other_rows(context.spec, classes, full)  # what the saliency lacks is said before minutes of measuring, too
    mapping = find_rows(context, full, data)
    rows = [mapping.rows[name] for name in classes]
    dense = with_head(full, rows, job["head"])
    groups = coupling_groups(dense)
    conditions(operators(dense, groups), groups, job)  # a misspelt layer is said before minutes of measuring
    patterns_on_offer(job)
    if all(group.frozen for group in groups):
        raise StepProblem("nothing_to_prune", "No layer of this network can be pruned; `validate` lists the reasons.")
    score = accuracy(dense, data.reported, None if job["head"] == "slice" else rows)
    context.phase("measuring")
    devices = [measured(context, dense, target) for target in wanted]
    timing, budget_ms = devices[0], devices[0]["budget_ms"]
    context.metric(dense_ms=timing["p50_ms"], budget_ms=budget_ms, accuracy_dense=score.overall)
    return {
        "classes": classes,
        "rows": rows,
        "class_map": {"source": mapping.source, "agreement": mapping.agreement},
        "budget_ms": budget_ms,
        "devices": devices,
        "splits": {
            name: {"source": split.source, "num_images": len(split)}
            for name, split in (("train", data.train), ("selection", data.selection), ("reported", data.reported))
        },
        "flip": data.flip,
        "skipped": [f"{path}: {reason}" for path, reason in data.skipped[:50]],
        "dense": {
            "p50_ms": timing["p50_ms"],
            "p90_ms": timing["p90_ms"],
            "num_samples": timing["num_samples"],
            "accuracy": score.overall,
            "per_class": list(score.per_class),
            "num_macs": num_macs(dense),
            "num_parameters": num_parameters(dense),
            "size_bytes": context.path("dense.onnx").stat().st_size,
        },
        "summary": {"budget_ms": budget_ms, "dense_ms": timing["p50_ms"], "accuracy_dense": score.overall},
    }


def measured(context: StepContext, dense: Network, target: Target) -> dict[str, Any]:
    """Return what the dense network takes on a device, and the budget in ms; nulls where this worker cannot measure."""
    program = dense_program(context, dense, target)
    if not target.here:
        return {"p50_ms": None, "p90_ms": None, "num_samples": 0, "budget_ms": target.budget_ms}
    (timing,) = target.meter.networks([program])
    return {
        "p50_ms": timing.p50_ms,
        "p90_ms": timing.p90_ms,
        "num_samples": timing.num_samples,
        "budget_ms": target.limit_ms(timing.p50_ms),
    }


def class_names(wanted: list[str | int], folders: list[str]) -> list[str]:
    """Return the folder names of the job's classes, sorted as the folders are; indices count the sorted folders."""
    names = {folders[item] if isinstance(item, int) and 0 <= item < len(folders) else str(item) for item in wanted}
    if unknown := sorted(names - set(folders)):
        raise StepProblem(
            "unknown_class", f"Not a class of the data set: {', '.join(unknown)}. It has {', '.join(folders[:50])}."
        )
    return sorted(names)


def find_rows(context: StepContext, full: Network, data: Dataset) -> ClassMap:
    """Return the output row of each class; a row that the network's own predictions contradict is warned about."""
    dataset, model = context.spec["dataset"], context.spec["model"]
    predictions = {}
    for label, name in enumerate(data.classes):
        index = np.flatnonzero(data.train.labels == label)
        chosen = index[np.linspace(0, len(index) - 1, min(PREDICTED_IMAGES, len(index))).astype(int)]
        with torch.inference_mode():
            outputs = full.module(data.train.normalise(data.train.raw(chosen)))
        predictions[name] = outputs.argmax(1).numpy()
    with problems():
        mapping = class_rows(
            dataset["classes"],
            data.classes,
            full.num_outputs,
            class_map=dataset["class_map"],
            class_names=model["class_names"],
            predictions=predictions,
        )
    if doubtful := [name for name, share in mapping.agreement.items() if share < 0.5]:
        context.warning(
            "class_map_doubtful",
            f"The network predicts most images of {', '.join(doubtful)} as another class: check the class map "
            "and the normalisation of the data set.",
        )
    return mapping
