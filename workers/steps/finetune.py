"""Train the repaired network to give what the dense network gives; resumable after every epoch."""

from dataclasses import asdict, dataclass
from typing import Any

from pruning.data import Dataset
from pruning.distill import FinetuneOptions
from pruning.export import to_safetensors
from pruning.finetune import EpochMetrics, FinetuneResult, finetune
from pruning.masked import Masks
from pruning.network import Network
from pruning.team import Team
from workers.context import StepContext, jsonable
from workers.ranks import team_of
from workers.steps.loading import dense_network, job_images, weights
from workers.steps.planned import MAIN, chosen_plans, plan_masks, slimmed

CHECKPOINT = "training.pt"


def run(context: StepContext) -> dict[str, Any]:
    """Return how the training went; leave `model.safetensors`."""
    pair = _pair(context)
    if context.spec["job"]["finetune"]["mode"] != "full":
        to_safetensors(pair.student, context.path("model.safetensors"))
        return {"training": None}
    data = job_images(context, pair.dense)
    with team_of(context, __name__) as team:
        result = _trained(context, pair, data, team)
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


def follow(context: StepContext, team: Team) -> None:
    """Do what another rank of the team does: the same training, of which only rank 0 leaves anything."""
    pair = _pair(context)
    _trained(context, pair, job_images(context, pair.dense), team)


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """Who teaches, who learns, and which of its weights."""

    dense: Network
    student: Network
    masks: Masks


def _pair(context: StepContext) -> _Pair:
    dense = dense_network(context)
    masks = plan_masks(context, MAIN)
    student, _ = slimmed(dense, chosen_plans(context)[MAIN], masks)
    student.module.load_state_dict(weights(context.path("repaired.safetensors")), strict=False)
    return _Pair(dense=dense, student=student, masks=masks)


def _trained(context: StepContext, pair: _Pair, data: Dataset, team: Team) -> FinetuneResult:
    options, checkpoint = context.spec["job"]["finetune"], context.path(CHECKPOINT)

    def on_epoch(metrics: EpochMetrics) -> None:
        if checkpoint.exists():
            context.checkpoint(checkpoint, **asdict(metrics))
        else:
            context.metric(**asdict(metrics))

    return finetune(
        pair.student,
        pair.dense,
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
        masks=pair.masks,
        on_epoch=on_epoch,
        checkpoint=checkpoint,
        progress=context.progress,
        team=team,
    )
