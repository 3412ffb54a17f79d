"""Fine-tuning of a slimmed or masked network: never returns a worse one than it was given.

AdamW at a learning rate found by a short range test, cosine decay, the epoch chosen on the selection split with the
start as epoch 0. A run is a function of its seed: every epoch draws its batches from (seed, epoch) alone, so a run that
resumes from its checkpoint goes on exactly where the other stopped, with as many processes as it likes (`pruning.team`).
"""

import copy
import hashlib
import math
import pickle
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning.data import Split
from pruning.distill import UNMASKED, Distiller, FinetuneOptions, schedule, state_of
from pruning.evaluate import Accuracy, accuracy_of
from pruning.masked import Masks, masked_copy
from pruning.network import Network
from pruning.team import ALONE, Team

__all__ = ["EpochMetrics", "FinetuneOptions", "FinetuneResult", "finetune"]

CHECKPOINT_VERSION = 2
PLANNED_SHARE = 0.9
"""Epochs are planned to fill this much of what is left, because machines get slower when they are shared."""


@dataclass(frozen=True, kw_only=True)
class EpochMetrics:
    """One epoch: the training loss, and how the network does on the selection split."""

    epoch: int
    """0 is the start, before any training."""
    train_loss: float
    """Mean over the epoch's steps; NaN for epoch 0."""
    accuracy: float
    per_class: tuple[float, ...]
    loss: float
    """Cross entropy on the selection split, nats."""
    seconds: float
    """Since the run began, over all its resumptions."""


@dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """The best network of the run and how it came about."""

    network: Network
    unmasked: Network
    """`network` with the values its masked weights have in straight-through training, for a later mask to choose from;
    the same network where there are no masks."""
    best_epoch: int
    history: tuple[EpochMetrics, ...]
    learning_rate: float
    range_losses: dict[float, float]
    """Candidate -> loss on held-back images after its longest run; empty when there was one candidate."""
    precision: str
    num_planned: int
    """Epochs the learning rate was planned to decay over."""
    num_resumed: int
    """Epochs that were taken over from a checkpoint."""
    diverged: bool
    """A loss was not finite: training stopped there, and the best epoch before it stands."""
    seconds: float


@dataclass(kw_only=True)
class _Run:
    """All that changes while a run goes on, and what a checkpoint holds."""

    rate: float
    range_losses: dict[float, float]
    precision: str
    num_planned: int
    history: list[EpochMetrics]
    best_epoch: int
    best: dict[str, Tensor]
    """State of the best epoch, masked weights with the values they have behind their mask."""
    diverged: bool = False

    @property
    def seconds(self) -> float:
        """Time used so far."""
        return self.history[-1].seconds


def finetune(
    student: Network,
    teacher: Network,
    train: Split,
    selection: Split,
    options: FinetuneOptions,
    *,
    masks: Masks = UNMASKED,
    on_epoch: Callable[[EpochMetrics], None] | None = None,
    checkpoint: Path | None = None,
    progress: Callable[[float], None] | None = None,
    team: Team = ALONE,
) -> FinetuneResult:
    """Return the best network of a training run, by accuracy then loss on `selection`, the start included.

    Minimises `distillation * T^2 * KL(teacher || student) + (1 - distillation) * cross entropy` with temperature T.

    Args:
        student: the slimmed network, k outputs in the order of the labels; it is not changed.
        teacher: the dense network with the same outputs.
        train: images to learn from.
        selection: images that choose the learning rate and the epoch.
        options: the recipe.
        masks: weights of the student that stay; in all that is evaluated or returned the others are exactly zero.
        on_epoch: called after each epoch, once its checkpoint is written; what it raises ends the run.
        checkpoint: file that is rewritten after each epoch; one that belongs to the same run is resumed from.
        progress: share of the planned steps done, 0 to 1.
        team: the processes that train together, all of which call this alike; rank 0 alone writes the checkpoint and
            calls `on_epoch` and `progress`.
    """
    trainer = _Trainer(student, teacher, train, selection, options, masks, team)
    if not team.leads:
        on_epoch = progress = checkpoint = None
    saved = team.told(_read(checkpoint, trainer.fingerprint) if checkpoint else None)
    run = trainer.resume(saved) if saved else trainer.begin()
    num_resumed = run.history[-1].epoch
    if not saved and on_epoch:
        on_epoch(run.history[0])
    while not run.diverged and run.history[-1].epoch < run.num_planned and run.seconds < 60 * options.max_minutes:
        trainer.epoch(run, progress)
        if checkpoint:
            _write(checkpoint, trainer.checkpoint(run))
        if on_epoch:
            on_epoch(run.history[-1])
    module = copy.deepcopy(student.module).eval()
    module.load_state_dict(run.best)
    unmasked = replace(student, module=module)
    return FinetuneResult(
        network=masked_copy(unmasked, masks) if masks else unmasked,
        unmasked=unmasked,
        best_epoch=run.best_epoch,
        history=tuple(run.history),
        learning_rate=run.rate,
        range_losses=run.range_losses,
        precision=run.precision,
        num_planned=run.num_planned,
        num_resumed=num_resumed,
        diverged=run.diverged,
        seconds=run.seconds,
    )


class _Trainer:
    """Ties the distillation to a run: where it starts, what an epoch does, what a checkpoint holds."""

    def __init__(
        self,
        student: Network,
        teacher: Network,
        train: Split,
        selection: Split,
        options: FinetuneOptions,
        masks: Masks,
        team: Team,
    ) -> None:
        self.distiller = Distiller(student, teacher, train, options, masks, team)
        self.team = team
        self.start, self.train, self.selection, self.options = student, train, selection, options
        self.steps_per_epoch = math.ceil(len(train) / options.batch_size)
        self.began = time.perf_counter()
        self.fingerprint = _fingerprint(student, train, selection, options, masks)

    def begin(self) -> _Run:
        """Return a run at epoch 0: precision, learning rate and number of epochs are settled here, once."""
        start = self._accuracy()
        evaluation_s = time.perf_counter() - self.began
        precision, images_per_s = self.distiller.choose_precision()
        self.distiller.set_precision(precision)
        epoch_s = len(self.train) / images_per_s + evaluation_s
        rate, losses = self.distiller.choose_rate(self.selection, self.options.batch_size / images_per_s)
        left_s = PLANNED_SHARE * (60 * self.options.max_minutes - (time.perf_counter() - self.began))
        return _Run(
            rate=rate,
            range_losses=losses,
            precision=precision,
            num_planned=self.team.told(max(1, min(self.options.max_epochs, int(left_s / epoch_s)))),
            history=[self._metrics(0, float("nan"), start)],
            best_epoch=0,
            best=state_of(self.start.module),
        )

    def resume(self, saved: dict[str, Any]) -> _Run:
        """Return the run a checkpoint holds, with networks and optimiser as they were then."""
        history = [EpochMetrics(**{**row, "per_class": tuple(row["per_class"])}) for row in saved["history"]]
        fields = ("rate", "range_losses", "precision", "num_planned", "best_epoch", "best", "diverged")
        run = _Run(history=history, **{name: saved[name] for name in fields})
        self.distiller.set_precision(run.precision)
        self.distiller.student.module.load_state_dict(saved["student"])
        self.distiller.masking.load_state_dict(saved["behind_masks"])
        self.distiller.optimizer.load_state_dict(saved["optimizer"])
        self.began -= run.seconds
        return run

    def checkpoint(self, run: _Run) -> dict[str, Any]:
        """Return tensors, numbers and strings alone, so that reading them back runs no code."""
        fields = ("rate", "range_losses", "precision", "num_planned", "best_epoch", "best", "diverged")
        history = [{**asdict(row), "per_class": list(row.per_class)} for row in run.history]
        return {
            **{name: getattr(run, name) for name in fields},
            "history": history,
            "student": self.distiller.student.module.state_dict(),
            "behind_masks": self.distiller.masking.state_dict(),
            "optimizer": self.distiller.optimizer.state_dict(),
            "fingerprint": self.fingerprint,
        }

    def epoch(self, run: _Run, progress: Callable[[float], None] | None) -> None:
        """Train for one epoch and evaluate; a better network becomes the run's best."""
        epoch = run.history[-1].epoch + 1
        first = (epoch - 1) * self.steps_per_epoch
        num_steps = run.num_planned * self.steps_per_epoch
        losses = []
        for step, batch in enumerate(self.distiller.batches(epoch), start=first):
            losses.append(self.distiller.step(batch, run.rate * schedule(step, num_steps)))
            if not math.isfinite(losses[-1]):
                break
            if progress:
                progress((step + 1) / num_steps)
        now = self._accuracy()
        run.diverged = not math.isfinite(losses[-1]) or not math.isfinite(now.loss)
        run.history.append(self._metrics(epoch, sum(losses) / len(losses), now))
        best = run.history[run.best_epoch]
        if not run.diverged and (now.overall, -now.loss) > (best.accuracy, -best.loss):
            run.best_epoch, run.best = epoch, self.distiller.unmasked()

    def _accuracy(self) -> Accuracy:
        return accuracy_of(self.distiller.outputs(self.distiller.student, self.selection), self.selection.labels)

    def _metrics(self, epoch: int, train_loss: float, now: Accuracy) -> EpochMetrics:
        return EpochMetrics(
            epoch=epoch,
            train_loss=train_loss,
            accuracy=now.overall,
            per_class=now.per_class,
            loss=now.loss,
            seconds=self.team.told(time.perf_counter() - self.began),
        )


def _fingerprint(student: Network, train: Split, selection: Split, options: FinetuneOptions, masks: Masks) -> str:
    """Return a digest of what makes a run: options, splits, masks and the weights it starts from."""
    recipe = {**asdict(options), "max_minutes": None, "version": CHECKPOINT_VERSION}
    digest = hashlib.sha256(repr(sorted(recipe.items())).encode())
    for split in (train, selection):
        digest.update(split.index.tobytes() + split.labels.tobytes())
    for name, value in sorted(state_of(student.module).items()):
        digest.update(name.encode() + value.numpy().tobytes())
    for name, mask in sorted(masks.items()):
        digest.update(name.encode() + mask.numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """Return the checkpoint of this very run; None when there is none, or it is another run's or not whole."""
    try:
        saved: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except (FileNotFoundError, RuntimeError, EOFError, pickle.UnpicklingError):
        return None
    return saved if saved.get("fingerprint") == fingerprint else None


def _write(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    torch.save(content, partial)
    partial.replace(path)
