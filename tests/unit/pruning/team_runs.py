"""`python -m tests.unit.pruning.team_runs RANK SIZE FOLDER`: one rank's part of the runs that tests hold against those of one process."""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pruning.finetune import EpochMetrics, FinetuneOptions, FinetuneResult, finetune
from pruning.masked import Masks
from pruning.slim import slim
from pruning.team import ALONE, Team, joined
from tests.unit.pruning.pictures import digits, first_units, grouped, trained

OPTIONS: Mapping[str, Any] = {
    "max_epochs": 3, "batch_size": 64, "learning_rates": (1e-3,), "precision": "fp32", "flip": True,
}  # fmt: skip
CASES: Mapping[str, Mapping[str, Any]] = {
    "labels alone": {"distillation": 0.0},
    "distillation": {},
    "a rate that is looked for": {"learning_rates": (3e-4, 1e-3, 3e-3), "range_steps": 16},
    "fixed masks": {"mask_mode": "fixed"},
    "learning behind masks": {"mask_mode": "ste"},
    "a rank without images": {"batch_size": 45},
    "a loss that is not finite": {"learning_rates": (float("inf"),)},
}
RESUMED = "learning behind masks"


class World:
    """The networks and images of every run, the same in every process."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        train, self.selection = digits()
        self.train = train.take(271)  # six batches of 45, and one image
        self.teacher = trained(self.train)
        groups = grouped(self.teacher)
        self.student = slim(self.teacher, groups, first_units(groups, 0.6))
        draw = torch.Generator().manual_seed(0)
        shapes = {name: self.student.module.get_submodule(name).weight.shape for name in ("conv1", "conv2")}
        self.masks: Masks = {name: torch.rand(shape, generator=draw) < 0.4 for name, shape in shapes.items()}

    def run(self, name: str, team: Team = ALONE, checkpoint: Path | None = None) -> FinetuneResult:
        """Return what comes of a case; `checkpoint` is left as it was after the first epoch, with `.first` at its end."""

        def on_epoch(metrics: EpochMetrics) -> None:
            if checkpoint and metrics.epoch == 1:
                shutil.copy(checkpoint, f"{checkpoint}.first")

        return finetune(
            self.student, self.teacher, self.train, self.selection, FinetuneOptions(**{**OPTIONS, **CASES[name]}),
            masks=self.masks if "masks" in name else {}, team=team, checkpoint=checkpoint, on_epoch=on_epoch,
        )  # fmt: skip


def facts(result: FinetuneResult) -> dict[str, Any]:
    """Return what two runs are compared by."""
    return {
        "state": result.unmasked.module.state_dict(),
        "masked": result.network.module.state_dict(),
        "figures": [(row.accuracy, row.loss, row.train_loss) for row in result.history],
        "range_losses": result.range_losses,
        "chosen": [result.best_epoch, result.learning_rate, result.num_planned, result.diverged],
        "num_resumed": result.num_resumed,
    }


def main() -> None:
    """Run every case in a team, and one that goes on from `one.pt`; leave `<rank>.pt`, and `team.pt.first`, a checkpoint."""
    rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    world = World()
    with joined(rank=rank, size=size, meeting=folder / "meeting") as team:
        found = {name: facts(world.run(name, team)) for name in CASES}
        found["resumed"] = facts(world.run(RESUMED, team, folder / "one.pt"))
        world.run(RESUMED, team, folder / "team.pt")
    torch.save(found, folder / f"{rank}.pt")


if __name__ == "__main__":
    main()
