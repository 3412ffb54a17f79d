"""Distillation of a slimmed network from the dense one: the loss, one optimiser step, and what is settled by trying.

Normalisation statistics are frozen and dropout is off: the recipe must hold for networks whose BatchNorm was folded and
put back (method section 8). Letters: b = images of a batch, k = classes.
"""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, fx
from torch.nn import functional

from pruning.augment import shuffled
from pruning.data import Split
from pruning.evaluate import logits
from pruning.masked import Masks
from pruning.network import Network
from pruning.patterns.training import MaskedTraining
from pruning.team import ALONE, Team

RANGE_SHARE = 0.15
"""Of the time limit, at most this much goes into finding the learning rate."""
RANGE_IMAGES = 512
RANGE_EPOCH = 1 << 30
"""Number of the first epoch whose batches the range test uses; far from those of the training."""
MAX_GRADIENT_NORM = 1.0
"""A cut network's first gradients are large and frozen statistics do not absorb them; clipped, a higher rate holds."""
BF16_GAIN = 1.1
"""bfloat16 is taken when it is at least this much faster."""
UNMASKED: Masks = MappingProxyType({})
"""No masks: every weight learns."""


class Batch(NamedTuple):
    """What one process sees of a batch."""

    images: Tensor
    """float32 [b, C, H, W]."""
    labels: Tensor
    """int64 [b]."""
    soft: Tensor
    """The dense network's logits, float32 [b, k]."""
    share: float = 1.0
    """How much of the batch these rows are, 0 to 1; at 0 they are another rank's, and only keep this one company."""


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """How a network is trained. The planned epochs fill `max_minutes` by the speed that is measured at the start."""

    max_epochs: int = 12
    max_minutes: float = 10.0
    """Training also stops at the end of the epoch in which this much time has passed."""
    batch_size: int = 128
    distillation: float = 0.9
    """Weight of the dense network's soft labels; the rest is cross entropy with the true labels."""
    temperature: float = 2.0
    learning_rates: tuple[float, ...] = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
    """Candidates of the range test, ascending; a single one is taken as it is."""
    range_steps: int = 96
    """Steps of the longest run of the range test; fewer where they would take too much of the time."""
    weight_decay: float = 1e-4
    flip: bool = True
    """Mirror training images at random; `Dataset.flip` says whether that keeps their class."""
    precision: str = "auto"
    """`fp32`, `bf16` (autocast, channels last), or `auto`: the faster of the two here."""
    mask_mode: str = "fixed"
    """`fixed`: masked weights take no part; `ste`: they learn behind their mask (`MaskedTraining`)."""
    seed: int = 0


def schedule(step: int, num_steps: int) -> float:
    """Return the share of the learning rate at a step: a short linear warm-up, and half a cosine over all steps."""
    warm_up = max(1, num_steps // 20)
    return min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def distillation_loss(outputs: Tensor, soft: Tensor, labels: Tensor, options: FinetuneOptions) -> Tensor:
    """Return the loss of outputs [b, k] against the teacher's logits [b, k] and the labels [b]."""
    temperature = options.temperature
    divergence = functional.kl_div(
        functional.log_softmax(outputs / temperature, dim=1),
        functional.log_softmax(soft / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    hard = functional.cross_entropy(outputs, labels)
    return options.distillation * temperature**2 * divergence + (1 - options.distillation) * hard


class Distiller:
    """A private copy of both networks, the training images and one optimiser; every rank of a team has one."""

    def __init__(
        self,
        student: Network,
        teacher: Network,
        train: Split,
        options: FinetuneOptions,
        masks: Masks = UNMASKED,
        team: Team = ALONE,
    ) -> None:
        self.start, self.team = student, team
        self.train, self.options, self.masks = train, options, masks
        self.student = replace(student, module=_private(student.module).to(team.device))
        self.teacher = replace(teacher, module=_private(teacher.module).to(team.device))
        self.masking = MaskedTraining(self.student, masks, mode=options.mask_mode)
        self.precision = "fp32"
        self.optimizer = self._optimizer()

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch with the dense network's logits, the same whenever they are asked for."""
        return (Batch(images, labels, self._soft(images), share) for images, labels, share in self._drawn(epoch))

    def _forward(self, network: Network, images: Tensor) -> Tensor:
        if self.precision == "fp32":
            outputs: Tensor = network.module(images)
            return outputs
        with torch.autocast(self.team.device.type, dtype=torch.bfloat16):
            outputs = network.module(images.contiguous(memory_format=torch.channels_last))
        return outputs.float()

    def _soft(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self._forward(self.teacher, images)

    def step(self, batch: Batch, rate: float) -> float:
        """Take one optimiser step and return its loss, that of the whole batch."""
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad()
        outputs = self._forward(self.student, batch.images)
        loss = batch.share * distillation_loss(outputs, batch.soft, batch.labels, self.options)
        loss.backward()  # type: ignore[no-untyped-call]
        total = self.team.summed(loss, self.student.module.parameters())
        torch.nn.utils.clip_grad_norm_(self.student.module.parameters(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        return total

    def _optimizer(self) -> torch.optim.Optimizer:
        optimizer = torch.optim.AdamW(self.student.module.parameters(), weight_decay=self.options.weight_decay)
        self.masking.attach(optimizer)
        return optimizer

    def reset(self) -> None:
        """Go back to the weights of the start, with a fresh optimiser."""
        self.student.module.load_state_dict(self.start.module.state_dict())
        self.masking.apply()
        self.optimizer = self._optimizer()

    def unmasked(self) -> dict[str, Tensor]:
        """Return the student's state, masked weights with the values they have behind their mask."""
        state = state_of(self.student.module)
        for name, behind in self.masking.state_dict().items():
            state[f"{name}.weight"] = torch.where(self.masks[name], state[f"{name}.weight"], behind.cpu()).contiguous()
        return state

    def set_precision(self, precision: str) -> None:
        """Train in this precision, in the memory layout that suits it."""
        self.precision = precision
        layout = torch.contiguous_format if precision == "fp32" else torch.channels_last
        for network in (self.student, self.teacher):
            network.module.to(memory_format=layout)

    def choose_precision(self) -> tuple[str, float]:
        """Return the precision to train in and the team's speed in images per second, from a few timed steps of each."""
        _, height, width = self.start.input_shape
        size = min(self.options.batch_size, max(8, (1 << 21) // (height * width)), len(self.train))
        own, share = self._own(size)
        whole = next(iter(self.train.take(size).batches(size)))
        images, labels = (one[own].to(self.team.device) for one in whole)
        names = ("fp32", "bf16") if self.options.precision == "auto" else (self.options.precision,)
        speeds = {name: size / self._time_step(name, images, labels, share) for name in names}
        self.reset()
        fast = len(names) > 1 and speeds["bf16"] > BF16_GAIN * speeds["fp32"]
        chosen = "bf16" if fast else names[0]
        return self.team.told((chosen, speeds[chosen]))

    def _time_step(self, precision: str, images: Tensor, labels: Tensor, share: float) -> float:
        self.set_precision(precision)
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            self.step(Batch(images, labels, self._soft(images), share), 0.0)
            seconds.append(time.perf_counter() - start)
        return min(seconds[1:])  # the first one pays for warming up

    def choose_rate(self, selection: Split, step_s: float) -> tuple[float, dict[float, float]]:
        """Return the best candidate on held-back images, and the loss of each after its longest run.

        Every candidate starts from the same weights, sees the same batches and decays to zero over them. A first round of
        a quarter of the steps favours small rates, so its winner runs the full length against the next larger rate.
        All runs together take no more steps than the training that they are for.
        """
        rates = self.options.learning_rates
        if len(rates) == 1:
            return rates[0], {}
        in_training = self.options.max_epochs * math.ceil(len(self.train) / self.options.batch_size)
        affordable = min(in_training, RANGE_SHARE * 60 * self.options.max_minutes / step_s)
        num_steps = max(8, min(self.options.range_steps, int(affordable / (len(rates) / 4 + 2))))
        held = selection.take(RANGE_IMAGES, self.options.seed)
        held_soft, soft = self.outputs(self.teacher, held), list[Tensor]()
        losses = {rate: self._try_rate(rate, num_steps // 4, soft, held, held_soft) for rate in rates}
        place = rates.index(_lowest(losses))
        finals = {rate: self._try_rate(rate, num_steps, soft, held, held_soft) for rate in rates[place : place + 2]}
        self.reset()
        return _lowest(finals), losses | finals

    def _try_rate(self, rate: float, num_steps: int, soft: list[Tensor], held: Split, held_soft: Tensor) -> float:
        self.reset()
        for step, batch in enumerate(self._range_batches(num_steps, soft)):
            self.step(batch, rate * schedule(step, num_steps))
        outputs, labels = self.outputs(self.student, held), torch.from_numpy(held.labels)
        return float(distillation_loss(outputs, held_soft, labels, self.options))

    def outputs(self, network: Network, split: Split) -> Tensor:
        """Return the network's logits on a split, float32 [n, k]; each rank computes its own rows."""
        own = self.team.rows(len(split))
        return self.team.gathered(logits(network, replace(split, index=split.index[own], labels=split.labels[own])))

    def _range_batches(self, num_steps: int, soft: list[Tensor]) -> Iterator[Batch]:
        """Yield the first batches of the range test; `soft` keeps the dense network's logits from one call to the next."""
        drawn = (batch for epoch in count(RANGE_EPOCH) for batch in self._drawn(epoch))
        for step, (images, labels, share) in enumerate(islice(drawn, num_steps)):
            if step == len(soft):
                soft.append(self._soft(images))
            yield Batch(images, labels, soft[step], share)

    def _drawn(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Yield images and labels of this rank's rows of each batch, and their share of it."""
        num, size, options = len(self.train), self.options.batch_size, self.options
        own = shuffled(
            self.train, size, seed=options.seed, epoch=epoch, flip=options.flip, rows=lambda count: self._own(count)[0]
        )
        for start, (images, labels) in zip(range(0, num, size), own, strict=True):
            yield images.to(self.team.device), labels.to(self.team.device), self._own(min(size, num - start))[1]

    def _own(self, count: int) -> tuple[slice, float]:
        """Return this rank's rows of a batch and their share of it: a rank without any takes the first row, at share 0."""
        own = self.team.rows(count)
        num = own.stop - own.start
        return (own, num / count) if num else (slice(0, 1), 0.0)


def _lowest(losses: dict[float, float]) -> float:
    """Return the rate with the lowest finite loss; the first one when none is finite."""
    return min(losses, key=lambda rate: losses[rate] if math.isfinite(losses[rate]) else math.inf)


def state_of(module: fx.GraphModule) -> dict[str, Tensor]:
    """Return a copy of parameters and buffers, in the plain memory layout, in this machine's own memory."""
    return {
        name: value.detach().clone(memory_format=torch.contiguous_format).cpu()
        for name, value in module.state_dict().items()
    }


def _private(module: fx.GraphModule) -> fx.GraphModule:
    """Return a copy in evaluation mode (statistics frozen, dropout off) whose every parameter learns."""
    return copy.deepcopy(module).eval().requires_grad_(True)
