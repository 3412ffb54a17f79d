"""Train the repaired network to give what the dense network gives; resumable after every epoch."""

from dataclasses import asdict
from typing import Any

from pruning.distill import FinetuneOptions
from pruning.export import to_safetensors
from pruning.finetune import EpochMetrics, finetune
from workers.context import StepContext, jsonable
from workers.steps.loading import dense_network, job_images, weights
from workers.steps.planned import MAIN, chosen_plans, plan_masks, slimmed

CHECKPOINT = "training.pt"


def run(context: StepContext) -> dict[str, Any]:
    """Return how the training went; leave `model.safetensors`."""
    options = context.spec["job"]["finetune"]
    dense = dense_network(context)
    masks = plan_masks(context, MAIN)
    student, _ = slimmed(dense, chosen_plans(context)[MAIN], masks)
    student.module.load_state_dict(weights(context.path("repaired.safetensors")), strict=False)
    if options["mode"] != "full":
        to_safetensors(student, context.path("model.safetensors"))
        return {"training": None}
    data = job_images(context, dense)
    checkpoint = context.path(CHECKPOINT)

    def on_epoch(metrics: EpochMetrics) -> None:
        if checkpoint.exists():
            context.checkpoint(checkpoint)
        context.metric(**asdict(metrics))

    result = finetune(
        student,
        dense,
        data.train,
        data.selection,
        FinetuneOptions(
            max_epochs=options["max_epochs"],
            max_minutes=options["max_minutes"],
            batch_size=options["batch_size"],
            distillation=options["distillation"],
            flip=data.flip,
            seed=context.seed,
        ),
        masks=masks,
        on_epoch=on_epoch,
        checkpoint=checkpoint,
        progress=context.progress,
    )
    to_safetensors(result.network, context.path("model.safetensors"))
    if result.diverged:
        context.warning(
            "training_diverged", "A loss was not finite: training stopped and the best epoch before it is kept."
        )
    fields = (
        "best_epoch",
        "learning_rate",
        "range_losses",
        "precision",
        "num_planned",
        "num_resumed",
        "diverged",
        "seconds",
    )
    training = {name: getattr(result, name) for name in fields} | {"history": [asdict(row) for row in result.history]}
    return {"training": jsonable(training)}
