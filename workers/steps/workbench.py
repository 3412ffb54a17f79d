"""Everything a plan is solved and measured with: the dense network, its tables, the devices, the user's conditions."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lut.calibrate import fit
from lut.measure.onnxruntime import measure_models
from lut.pattern import Pattern
from lut.table import LatencyTable
from pruning.export import to_onnx
from pruning.lower.rewrite import lower
from pruning.masked import Masks
from pruning.network import CouplingGroup, Keep, Network, Operator
from pruning.patterns.tables import PatternTable, pattern_tables, plan_masks, weight_of
from pruning.problem import Plan, Problem, Stage, restrict
from pruning.search import Attempt, Corrections, Measurement, Search, search
from pruning.solve import SOLVERS, solve
from pruning.stages import build
from pruning.tables import (
    Limit,
    best_units,
    build_problem,
    group_values,
    latency_limit,
    predicted_us,
    weight_bytes_limit,
    width_choices,
)
from workers.steps.targets import Target

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
    """Kept units by group, in the order in which they lie."""
    masks: Masks
    """By module; empty where the plan has no patterns."""


@dataclass(frozen=True, kw_only=True)
class Gauge:
    """One device of the job, with its table and what the dense network takes there."""

    target: Target
    table: LatencyTable
    dense_onnx: Path
    dense_ms: float
    budget_ms: float

    def measure(self, path: Path, times: int) -> Measurement:
        """Return an ONNX file's latency, interleaved with the dense network and put on the scale of its first measurement.

        A machine has moods in which one network suffers more than another: of several measurements the slowest counts. NaN where this
        worker cannot measure.
        """
        if not self.target.here:
            return Measurement(p50_ms=math.nan, p90_ms=math.nan)
        seen = []
        for _ in range(times):
            dense, slim = measure_models([self.dense_onnx, path], self.target.profile)
            drift = self.dense_ms / dense.p50_ms
            seen.append(Measurement(p50_ms=slim.p50_ms * drift, p90_ms=slim.p90_ms * drift))
        return max(seen, key=lambda one: one.p50_ms)


def gauge(
    target: Target, table: LatencyTable, dense_onnx: Path, dense: Mapping[str, Any], predicted_ms: float
) -> Gauge:
    """Return the gauge of a target; where the dense network was measured, its table is scaled to predict just that.

    `dense` holds `p50_ms` and `budget_ms` as the job began, null where this worker cannot measure.
    """
    if not target.here:
        return Gauge(
            target=target, table=table, dense_onnx=dense_onnx, dense_ms=predicted_ms,
            budget_ms=target.limit_ms(predicted_ms),
        )  # fmt: skip
    table = table.calibrated(fit([1e3 * predicted_ms], [1e3 * dense["p50_ms"]]))
    return Gauge(
        target=target, table=table, dense_onnx=dense_onnx, dense_ms=dense["p50_ms"], budget_ms=dense["budget_ms"]
    )


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """The dense network, its gauges and the conditions of its user."""

    dense: Network
    groups: tuple[CouplingGroup, ...]
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
    widths: bool = True
    """Whether channels may go."""
    _tables: dict[tuple[Saliency, float], dict[str, PatternTable]] = field(default_factory=dict)

    @property
    def table(self) -> LatencyTable:
        """The table of the job's own device."""
        return self.gauges[0].table

    @property
    def choices(self) -> dict[str, tuple[int, ...]]:
        """Offered widths by group."""
        if not self.widths:
            return {group.id: (group.units,) for group in self.groups if not group.frozen}
        return width_choices(self.groups, self.table, self.floor)

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
        return restrict(
            problem, min_widths=self.min_widths, frozen=[name for name in self.keep_dense if name in layers]
        )

    def _pattern_tables(self, saliency: Saliency) -> dict[str, PatternTable]:
        if not self.patterns or not saliency.weights:
            return {}
        key = (saliency, self.floor)
        if key not in self._tables:
            self._tables[key] = pattern_tables(
                self.costs, self.modules, self.groups, saliency.units, saliency.weights, self.patterns, self.choices
            )
        return self._tables[key]

    def value_share(self, saliency: Saliency, plan: Plan) -> float | None:
        """Return the saliency a plan keeps as a share of the dense network's; None where that is zero."""
        dense = sum(float(saliency.units[group.id].sum()) for group in self.groups if not group.frozen)
        return plan.value / dense if dense else None

    def built(self, saliency: Saliency, plan: Plan) -> Built:
        """Return the network a plan describes, its units in the order that serves its masks."""
        keep: Keep = best_units(saliency.units, plan.widths)
        masks: Masks = {}
        patterns = {self.modules[name]: Pattern.parse(one) for name, one in plan.patterns.items() if one != "dense"}
        if patterns:
            keep, masks = plan_masks(self.dense, self.groups, keep, plan.removed, saliency.weights, patterns)
        return Built(network=build(self.dense, self.groups, keep, plan.removed), keep=keep, masks=masks)

    def measure(self, saliency: Saliency, times: int, plan: Plan) -> list[Measurement]:
        """Return the latency of a plan's network on every device, each measured `times` times."""
        built, path, found = self.built(saliency, plan), self.folder / "candidate.onnx", []
        network = lower(built.network, built.masks)
        for one in self.gauges:
            if one.target.here:
                to_onnx(network, path, batch=one.target.profile.batch)
            found.append(one.measure(path, times))
        return found

    def search(
        self,
        saliency: Saliency,
        solver: str,
        *,
        seed: int,
        thorough: bool,
        on_attempt: Callable[[Attempt], None],
    ) -> Search:
        """Return the search for the best plan of one solver and one saliency that was measured within every budget."""
        own, *others = (one.budget_ms * (1 - MARGIN) for one in self.gauges)
        return search(
            lambda corrections: self.problem(saliency, self.gauges[0].budget_ms, corrections, MARGIN),
            partial(SOLVERS[solver], seed=seed),
            partial(self.measure, saliency, 2 if thorough else 1),
            budget_ms=own,
            others_ms=others,
            on_attempt=on_attempt,
            **({} if thorough else {"max_attempts": BASELINE_ATTEMPTS}),
        )

    def least(self, corrections: Corrections) -> dict[str, float]:
        """Return the least any width on offer reaches: ms per device, bytes of weights, each budget by itself, by its id."""
        flat = {group.id: np.zeros(group.units) for group in self.groups}
        zeros = {name: torch.zeros_like(weight_of(self.dense.module, name)) for name in self.modules.values()}
        plan = solve(replace(self, floor=0.0).problem(Saliency(units=flat, weights=zeros), 0.0, corrections))
        found: dict[str, Any] = {limit_id(0): plan.min_achievable_ns, **plan.other_min_achievable}
        return {name: cost / 1e6 if name.startswith("latency") else cost for name, cost in found.items()}


def limit_id(index: int) -> str:
    """Return the id of a device's latency budget in the problem."""
    return f"latency_ns:{index}" if index else "latency_ns"


def predicted_ms(costs: Sequence[Operator], groups: Sequence[CouplingGroup], table: LatencyTable) -> float:
    """Return the table's word on the dense network."""
    return predicted_us(costs, {group.id: group.units for group in groups}, table) / 1e3
