"""The networks that `bench.lut` calibrates a latency table on, and judges it on."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from lut.pattern import Pattern
from lut.profile import DeviceProfile
from lut.table import LatencyTable
from pruning.architectures import build as architecture
from pruning.calibration import calibration_variants
from pruning.export import num_macs
from pruning.groups import coupling_groups
from pruning.network import CouplingGroup, Network, Operator, Widths
from pruning.operators import operators
from pruning.patterns.tables import maskable
from pruning.planned import planned_variants
from pruning.predict import built_us
from pruning.tables import width_choices
from pruning.trace import trace
from pruning.variants import Variant, random_variants

PATTERNS = tuple(Pattern.parse(name) for name in ("64x1@1/2", "64x1@1/4", "32x1@1/2", "32x1@1/4"))
"""What a job offers by default."""
BUDGETS = (0.3, 0.95)
"""Of the dense latency; plans are spread evenly between."""
SIZE = 224


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A smaller network and what it was made of."""

    kind: str
    variant: str
    network: Network
    widths: Widths
    patterns: Mapping[str, Pattern] = field(default_factory=dict)
    told_us: float | None = None
    """What the solver said a plan takes."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return num_macs(self.network)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network on one device profile."""

    name: str
    network: Network
    groups: tuple[CouplingGroup, ...]
    costs: tuple[Operator, ...]
    modules: Mapping[str, str]
    """`pruning.patterns.tables.maskable` of it."""
    profile: DeviceProfile
    patterns: tuple[Pattern, ...]

    def itself(self) -> Judged:
        """Return the dense network."""
        widths = {group.id: group.units for group in self.groups}
        return Judged(kind="dense", variant="dense", network=self.network, widths=widths)

    def judged(self, kind: str, variant: str, one: Variant) -> Judged:
        """Return a variant of it by this name."""
        return Judged(
            kind=kind, variant=variant, network=one.network, widths=one.widths, patterns=one.patterns,
            told_us=one.told_us,
        )  # fmt: skip

    def sum_us(self, table: LatencyTable, one: Judged) -> float:
        """Return the table's latency of a network as it was built."""
        return built_us(self.costs, one.network, one.widths, table, one.patterns)


def case(name: str, profile: DeviceProfile, patterns: tuple[Pattern, ...] = PATTERNS) -> Case:
    """Return the network of this name at 224 pixels, weights drawn from seed 0."""
    torch.manual_seed(0)
    network = trace(architecture(name, 1000), (3, SIZE, SIZE))
    groups = coupling_groups(network)
    costs = operators(network, groups)
    return Case(
        name=name, network=network, groups=groups, costs=costs, modules=maskable(network, costs),
        profile=profile, patterns=patterns,
    )  # fmt: skip


def calibrating(case: Case, table: LatencyTable, seed: int) -> tuple[list[Judged], list[Judged]]:
    """Return what a job calibrates the table on: the dense network and slimmed ones, and masked ones."""
    made = calibration_variants(
        case.network, case.groups, case.costs, table, width_choices(case.groups, table), case.patterns, seed=seed
    )
    named = [case.judged(_kind(one), str(number), one) for number, one in enumerate(made)]
    return [case.itself(), *(one for one in named if not one.patterns)], [one for one in named if one.patterns]


def variants(case: Case, table: LatencyTable, *, masked_every: int, num: int, seed: int) -> Iterator[Judged]:
    """Yield random variants of the widths that the table's stair offers; none masked for 0, or all (1), or every second (2)."""
    choices = width_choices(case.groups, table)
    drawn = random_variants(
        case.network, case.groups, choices, case.modules, case.patterns if masked_every else (), num=num,
        masked_every=masked_every, seed=seed,
    )  # fmt: skip
    for number, one in enumerate(drawn):
        yield case.judged(_kind(one), str(number), one)


def _kind(one: Variant) -> str:
    return "masked" if one.patterns else "slimmed"


def plans(case: Case, table: LatencyTable, num: int, seed: int) -> Iterator[Judged]:
    """Yield what the solver chose by this table's word: random saliencies, evenly spread budgets, every second with patterns.

    A budget that cannot be met gives no plan.
    """
    choices, shares = width_choices(case.groups, table), np.linspace(*BUDGETS, num).tolist()
    chosen = planned_variants(case.network, case.groups, case.costs, table, choices, shares, case.patterns, seed=seed)
    for share, one in chosen:
        yield case.judged("plan", f"{share:.2f}{'+patterns' if one.patterns else ''}", one)
