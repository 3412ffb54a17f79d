"""Random slimmed and masked variants of a network: what a latency table is calibrated on and judged by.

Letters: u = units of a coupling group.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch

from lut.pattern import Pattern
from pruning.lower.rewrite import lower
from pruning.network import CouplingGroup, Network, Widths
from pruning.patterns.masks import best_mask
from pruning.patterns.tables import weight_of
from pruning.problem import Stage
from pruning.stages import build
from pruning.tables import Choices

LEAST_SHARE = 0.25
"""Jobs cut no group below this either, unless nothing else keeps the budget."""
SPREAD = 0.2
MASKED_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A smaller network and what it is made of."""

    network: Network
    """Slimmed and lowered."""
    widths: Widths
    patterns: Mapping[str, Pattern]
    """By operator; those of a pattern that keeps everything are there, too."""
    told_us: float | None = None
    """What the solver said it takes; None where no solver chose it."""


def random_variants(
    network: Network,
    groups: Sequence[CouplingGroup],
    choices: Choices,
    modules: Mapping[str, str] = MappingProxyType({}),
    patterns: Sequence[Pattern] = (),
    *,
    num: int,
    masked_every: int = 2,
    stages: Sequence[Stage] = (),
    seed: int = 0,
) -> Iterator[Variant]:
    """Yield `num` variants of offered widths: each has a share of its own, uniform in 0.25 to 1, around which its groups vary.

    Where there are patterns, every so many-th variant gives each layer that may have one a pattern or none, by a fair coin.
    Every second variant lacks a share of `stages`, uniform in 0 to 1. Which units stay is random. The weights are the network's own.

    Args:
        network: the dense one.
        groups: its coupling groups.
        choices: offered widths by group.
        modules: `pruning.patterns.tables.maskable` of it; none has a pattern without.
        patterns: lowerable ones.
        num: how many.
        masked_every: 1 for masked ones alone, 2 for every second.
        stages: branches that may go.
        seed: of everything that is drawn; the first variants do not depend on `num`.
    """
    random = np.random.default_rng(seed)
    units = {group.id: group.units for group in groups}
    for number in range(num):
        share = random.uniform(LEAST_SHARE, 1.0)
        widths = {
            group: min(offered, key=lambda width, wish=wish: abs(width - wish))  # type: ignore[misc]
            for group, offered in choices.items()
            for wish in [units[group] * float(np.clip(random.normal(share, SPREAD), LEAST_SHARE, 1.0))]
        }
        removed = _some(stages, random) if stages and number % 2 else []
        layers = {layer for stage in removed for layer in stage.layers}
        widths |= dict.fromkeys((group for stage in removed for group in stage.groups if group in widths), 0)
        keep = {group: np.sort(random.permutation(units[group])[:width]) for group, width in widths.items()}
        chosen: dict[str, Pattern] = {}
        if patterns and number % masked_every == masked_every - 1:
            drawn = {name: patterns[int(random.integers(len(patterns)))] for name in modules if name not in layers}
            chosen = {name: pattern for name, pattern in drawn.items() if random.random() < MASKED_SHARE}
        slimmed = build(network, groups, keep, [stage.id for stage in removed])
        yield Variant(network=_masked(slimmed, modules, chosen, seed), widths=widths, patterns=chosen)


def _some(stages: Sequence[Stage], random: np.random.Generator) -> list[Stage]:
    share = random.random()
    return [stage for stage in stages if random.random() < share]


def _masked(slimmed: Network, modules: Mapping[str, str], patterns: Mapping[str, Pattern], seed: int) -> Network:
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for name, pattern in patterns.items():
        shape = weight_of(slimmed.module, modules[name]).shape
        masks[modules[name]] = best_mask(torch.rand(shape, generator=generator), pattern)
    return lower(slimmed, masks) if masks else slimmed
