"""The networks that `bench.lut` judges a latency table on.

Letters: u = units of a coupling group.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from lut.pattern import Pattern
from lut.profile import DeviceProfile
from lut.table import LatencyTable
from pruning.architectures import build as architecture
from pruning.export import num_macs
from pruning.groups import coupling_groups
from pruning.lower.rewrite import lower
from pruning.network import CouplingGroup, Network, Operator, Widths
from pruning.operators import operators
from pruning.patterns.tables import in_effect, maskable, pattern_tables, plan_masks, weight_of
from pruning.predict import built_us
from pruning.problem import Plan, Stage
from pruning.solve import solve
from pruning.stages import build, removable_stages
from pruning.tables import best_units, build_problem, group_values, latency_limit, width_choices
from pruning.trace import trace
from pruning.variants import random_variants

PATTERNS = tuple(Pattern.parse(name) for name in ("64x1@1/2", "64x1@1/4", "32x1@1/2", "32x1@1/4"))
"""What a job offers by default."""
BUDGETS = (0.3, 0.95)
"""Of the dense latency; plans are spread evenly between."""
FLOOR = 0.25
"""As jobs have it."""
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
    stages: tuple[Stage, ...]
    modules: Mapping[str, str]
    """`pruning.patterns.tables.maskable` of it."""
    profile: DeviceProfile
    patterns: tuple[Pattern, ...]

    def itself(self) -> Judged:
        """Return the dense network."""
        widths = {group.id: group.units for group in self.groups}
        return Judged(kind="dense", variant="dense", network=self.network, widths=widths)

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
        name=name, network=network, groups=groups, costs=costs, stages=removable_stages(network, groups, costs),
        modules=maskable(network, costs), profile=profile, patterns=patterns,
    )  # fmt: skip


def variants(
    case: Case, table: LatencyTable, *, masked_every: int, num: int, seed: int, remove: bool = False
) -> Iterator[Judged]:
    """Yield random variants of the widths that the table's stair offers; none masked for 0, or all (1), or every second (2).

    With `remove` some lack some of their stages.
    """
    choices = width_choices(case.groups, table)
    drawn = random_variants(
        case.network, case.groups, choices, case.modules, case.patterns if masked_every else (), num=num,
        masked_every=masked_every, stages=case.stages if remove else (), seed=seed,
    )  # fmt: skip
    for number, one in enumerate(drawn):
        kind = "masked" if one.patterns else "slimmed"
        yield Judged(kind=kind, variant=str(number), network=one.network, widths=one.widths, patterns=one.patterns)


def plans(case: Case, table: LatencyTable, num: int, seed: int) -> Iterator[Judged]:
    """Yield what the solver chose by this table's word: random saliencies, evenly spread budgets, every second with patterns.

    A budget that cannot be met gives no plan.
    """
    dense_us = case.sum_us(table, case.itself())
    for number, share in enumerate(np.linspace(*BUDGETS, num)):
        masked = number % 2 == 1
        units, weights = _saliency(case, seed + number)
        choices = width_choices(case.groups, table, FLOOR)
        problem = build_problem(
            case.costs,
            choices,
            group_values(units, choices),
            latency_limit(table, int(share * dense_us * 1e3)),
            stages=case.stages,
            patterns=pattern_tables(
                case.costs, case.modules, case.groups, units, weights, case.patterns, choices
            )
            if masked
            else {},
        )  # fmt: skip
        plan = solve(problem, seed=seed)
        if plan.found:
            yield _planned(case, plan, choices, units, weights, f"{share:.2f}{'+patterns' if masked else ''}")


def _saliency(case: Case, seed: int) -> tuple[dict[str, np.ndarray], dict[str, torch.Tensor]]:
    """Return exponential random saliencies: float64 [u] by group, and float32 by module in the shape of its weight."""
    random, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    units = {group.id: random.exponential(size=group.units) for group in case.groups}
    shapes = {name: weight_of(case.network.module, name).shape for name in case.modules.values()}
    return units, {name: torch.rand(shape, generator=generator) ** 4 for name, shape in shapes.items()}


def _planned(
    case: Case,
    plan: Plan,
    choices: Mapping[str, tuple[int, ...]],
    units: Mapping[str, np.ndarray],
    weights: Mapping[str, torch.Tensor],
    variant: str,
) -> Judged:
    meant = in_effect(case.costs, choices, plan.widths, plan.patterns)
    patterns = {name: Pattern.parse(pattern) for name, pattern in meant.items()}
    by_module = {case.modules[name]: pattern for name, pattern in patterns.items()}
    keep, masks = plan_masks(
        case.network, case.groups, best_units(units, plan.widths), plan.removed, weights, by_module
    )  # fmt: skip
    network = lower(build(case.network, case.groups, keep, plan.removed), masks)
    return Judged(
        kind="plan", variant=variant, network=network, widths=plan.widths, patterns=patterns,
        told_us=plan.latency_ns / 1e3,
    )  # fmt: skip
