"""Everything a plan is solved and measured with: the dense network, its tables, the devices, the user's conditions."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lut.pattern import Pattern
from lut.table import LatencyTable
from pruning.gradual import followers, pinned
from pruning.groups import coupling_groups
from pruning.lower.rewrite import lower
from pruning.masked import Masks
from pruning.network import CouplingGroup, Keep, Network, Operator
from pruning.operators import operators
from pruning.patterns.crisp import crisp
from pruning.patterns.masks import best_mask
from pruning.patterns.tables import PatternTable, in_effect, pattern_tables, plan_masks, weight_of
from pruning.predict import predicted_us
from pruning.problem import Plan, Problem, Stage, restrict
from pruning.search import Attempt, Corrections, Measurement, Search, search
from pruning.solve import SOLVERS, Solver, solve
from pruning.stages import build, removable_stages
from pruning.tables import (
    Limit,
    best_units,
    build_problem,
    group_values,
    latency_limit,
    weight_bytes_limit,
    width_choices,
)
from workers.steps.gauge import Gauge
from workers.steps.survivors import Survivors

MARGIN = 0.03
"""Share of every latency budget kept free, so that the verdict at the end does not hang on a coin's toss of noise."""
BASELINE_ATTEMPTS = 4
FLOOR = 0.25
"""No coupling group is cut below this share, unless the budget cannot be met otherwise (`bench/RESULTS.md`, floor)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Saliency:
    """One method's word on a network."""

    units: Mapping[str, np.ndarray]
    """float64 [units] by coupling group id."""
    weights: Mapping[str, Tensor]
    """float, in the shape of the weight, by module; empty where no patterns are on offer."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """The network of a plan, and what it was made by."""

    network: Network
    """Slimmed, not masked."""
    keep: Keep
    """Kept units of the workbench's network by group, in the order in which they lie."""
    masks: Masks
    """By module; empty where the plan has no patterns."""


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """The network, its gauges and the conditions of its user."""

    dense: Network
    """In a gradual job what survived: `after`."""
    groups: tuple[CouplingGroup, ...]
    """Of `dense`, as `costs` and `stages` are."""
    costs: tuple[Operator, ...]
    stages: tuple[Stage, ...]
    gauges: tuple[Gauge, ...]
    """The job's own device first."""
    folder: Path
    max_weight_bytes: int | None = None
    min_widths: Mapping[str, int]
    """By coupling group id, in units."""
    keep_dense: Sequence[str]
    """Operators that keep all channels."""
    floor: float = FLOOR
    """Least share of a coupling group that is offered."""
    modules: Mapping[str, str]
    """Module of every operator that may have a pattern, by the operator's name."""
    patterns: Sequence[Pattern] = ()
    """Patterns on offer beside dense."""
    pattern_loss: float = 1.0
    """Weight of what patterns lose against what channels lose."""
    widths: bool = True
    """Whether channels may go."""
    whole: tuple[CouplingGroup, ...] = ()
    """Coupling groups before anything went, where `dense` is what survived: widths are offered as they were then."""
    survivors: Survivors | None = None
    _tables: dict[tuple[Saliency, float], dict[str, PatternTable]] = field(default_factory=dict)

    @property
    def table(self) -> LatencyTable:
        """The table of the job's own device."""
        return self.gauges[0].table

    @property
    def choices(self) -> dict[str, tuple[int, ...]]:
        """Offered widths by group."""
        units = {group.id: group.units for group in self.groups if not group.frozen}
        if not self.widths:
            return {group: (most,) for group, most in units.items()}
        offered = width_choices(self.whole or self.groups, self.table, self.floor)
        return {group: tuple(width for width in offered[group] if width <= most) for group, most in units.items()}

    @property
    def masks(self) -> Masks | None:
        """What masks must lie within, and then channels stay in their order; None where masks are free."""
        return self.survivors.masks if self.survivors and self.survivors.nested else None

    def after(self, survivors: Survivors) -> "Workbench":
        """Return the workbench whose offers are what survived."""
        network = survivors.network
        groups = coupling_groups(network)
        # By the signatures of the dense network: what a removed branch changes beside it, the tables do not hold.
        signatures = {operator.name: operator.signature for operator in self.costs}
        costs = tuple(
            replace(operator, signature=signatures[operator.name])
            for operator in operators(network, groups)
            if operator.name in signatures
        )
        names, ids = {operator.name for operator in costs}, {group.id for group in groups}
        return replace(
            self,
            dense=network,
            groups=groups,
            costs=costs,
            stages=removable_stages(network, groups, costs) if self.stages else (),
            min_widths={group: width for group, width in self.min_widths.items() if group in ids},
            floor=min(self.floor, survivors.floor),
            modules={name: module for name, module in self.modules.items() if name in names},
            whole=self.whole or self.groups,
            survivors=survivors,
            _tables={},
        )

    def problem(
        self, saliency: Saliency, budget_ms: float, corrections: Corrections = (), margin: float = 0.0
    ) -> Problem:
        """Return the knapsack at corrections of the tables; without any, the tables are taken at their word."""
        first, *others = (
            latency_limit(
                one.table,
                math.floor((one.budget_ms if index else budget_ms) * (1 - margin) * 1e6),
                corrections[index] if corrections else 1.0,
                limit_id(index),
            )
            for index, one in enumerate(self.gauges)
        )
        if self.max_weight_bytes is not None:
            others.append(weight_bytes_limit(self.max_weight_bytes))
        return self._restricted(saliency, first, others)

    def _restricted(self, saliency: Saliency, first: Limit, others: Sequence[Limit]) -> Problem:
        problem = build_problem(
            self.costs,
            self.choices,
            group_values(saliency.units, self.choices),
            first,
            others=others,
            stages=self.stages,
            patterns=self._pattern_tables(saliency),
        )
        # An operator without a choice has no layer in the problem: it stays dense anyway.
        layers = {layer.name for layer in problem.layers}
        problem = restrict(
            problem, min_widths=self.min_widths, frozen=[name for name in self.keep_dense if name in layers]
        )
        return pinned(problem, self.survivors.patterns, followers(self.patterns)) if self.survivors else problem

    def _pattern_tables(self, saliency: Saliency) -> dict[str, PatternTable]:
        if not self.patterns or not saliency.weights:
            return {}
        key = (saliency, self.floor)
        if key not in self._tables:
            self._tables[key] = pattern_tables(
                self.costs,
                self.modules,
                self.groups,
                saliency.units,
                saliency.weights,
                self.patterns,
                self.choices,
                ranked=self.masks is None,
            )
        return {name: table.weighed(self.pattern_loss) for name, table in self._tables[key].items()}

    def value_share(self, saliency: Saliency, plan: Plan) -> float | None:
        """Return the saliency a plan keeps as a share of the dense network's; None where that is zero."""
        dense = sum(float(saliency.units[group.id].sum()) for group in self.groups if not group.frozen)
        return plan.value / dense if dense else None

    def built(self, saliency: Saliency, plan: Plan) -> Built:
        """Return the network a plan describes, its units in the order that serves its masks."""
        keep: Keep = best_units(saliency.units, plan.widths)
        masks: Masks = {}
        patterns = {self.modules[name]: Pattern.parse(one) for name, one in self.patterns_of(plan).items()}
        if self.masks is not None:
            within = self.masks
            masks = {name: best_mask(saliency.weights[name], one, within.get(name)) for name, one in patterns.items()}
        elif patterns:
            keep, masks = plan_masks(self.dense, self.groups, keep, plan.removed, saliency.weights, patterns)
        return Built(network=build(self.dense, self.groups, keep, plan.removed), keep=keep, masks=masks)

    def patterns_of(self, plan: Plan) -> dict[str, str]:
        """Return the pattern of every masked layer, by its operator."""
        found = {**(self.survivors.patterns if self.survivors else {}), **plan.patterns}
        return in_effect(self.costs, self.choices, plan.widths, found)

    def measure(self, saliency: Saliency, times: int, plan: Plan) -> list[Measurement]:
        """Return the latency of a plan's network on every device, each measured `times` times."""
        built = self.built(saliency, plan)
        network, path = lower(built.network, built.masks), self.folder / "candidate.onnx"
        return [one.measure(network, path, times) for one in self.gauges]

    def solver(self, name: str, saliency: Saliency) -> Solver:
        """Return the solver of this name; CRISP's also reads the saliency of weights."""
        if name != "crisp":
            return SOLVERS[name]
        weights = {operator: saliency.weights[module] for operator, module in self.modules.items()}
        return partial(crisp, weights=weights, floor=self.floor)

    def search(
        self,
        saliency: Saliency,
        solver: str,
        *,
        seed: int,
        thorough: bool,
        start: Corrections = (),
        known: Sequence[Attempt] = (),
        on_attempt: Callable[[Attempt], None],
    ) -> Search:
        """Return the search for the best plan of one solver and one saliency that was measured within every budget.

        `start` and `known`: as in `pruning.search`.
        """
        own, *others = (one.budget_ms * (1 - MARGIN) for one in self.gauges)
        return search(
            lambda corrections: self.problem(saliency, self.gauges[0].budget_ms, corrections, MARGIN),
            partial(self.solver(solver, saliency), seed=seed),
            partial(self.measure, saliency, 2 if thorough else 1),
            budget_ms=own,
            others_ms=others,
            start=start,
            known=known,
            on_attempt=on_attempt,
            **({} if thorough else {"max_attempts": BASELINE_ATTEMPTS}),
        )

    def least(self, corrections: Corrections) -> dict[str, float]:
        """Return the least any width on offer reaches: ms per device, bytes of weights, each budget by itself, by its id."""
        flat = {group.id: np.zeros(group.units) for group in self.groups}
        zeros = {name: torch.zeros_like(weight_of(self.dense.module, name)) for name in self.modules.values()}
        bare = replace(self, floor=0.0)
        plan = solve(bare.problem(Saliency(units=flat, weights=zeros), 0.0, corrections))
        found: dict[str, float] = {limit_id(0): plan.min_achievable_ns, **plan.other_min_achievable}
        return found | {limit_id(index): found[limit_id(index)] / 1e6 for index in range(len(self.gauges))}


def limit_id(index: int) -> str:
    """Return the id of a device's latency budget in the problem."""
    return f"latency_ns:{index}" if index else "latency_ns"


def predicted_ms(costs: Sequence[Operator], groups: Sequence[CouplingGroup], table: LatencyTable) -> float:
    """Return the table's word on the dense network."""
    return predicted_us(costs, {group.id: group.units for group in groups}, table) / 1e3
