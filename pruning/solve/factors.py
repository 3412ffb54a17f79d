"""A problem as integer tables over choice variables: the only form the solvers of this room work on.

Letters: K = budgets (latency first), P = patterns of a factor, n_v = choices of variable v.
Variables are, in this order: coupling groups, removable stages (choice 0 removed, 1 kept), totals of several input
groups.
"""

from dataclasses import dataclass, field

import numpy as np

from pruning.check import Totals, evaluate
from pruning.problem import Layer, Problem

VALUE_CEILING = 2**40
"""The largest value of every table, summed, is scaled by a power of two to lie just below this: partial sums stay exact
in
float64 and int64, tables of whole numbers stay exact, and one unit is 1e-12 of the whole."""


@dataclass(frozen=True, kw_only=True)
class Factor:
    """One table of the objective and the costs."""

    scope: tuple[int, ...]
    """Variables of the axes, ascending."""
    value: np.ndarray
    """int64 [P, n_v for v in scope], scaled and rounded up, so that bounds hold for the unrounded problem."""
    cost: np.ndarray
    """int64 [K, P, n_v for v in scope]."""
    layers: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(layer name, patterns) of the layer whose pattern axis 0 chooses; none when P is 1."""


@dataclass(frozen=True, kw_only=True)
class Total:
    """A variable that is a function of two others: `out = index[left, right]` (partial sums of input channels)."""

    left: int
    right: int
    out: int
    index: np.ndarray
    """int64 [n_left, n_right] -> choice of `out`."""
    counts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    """Channels each choice of left, right and out stands for: left + right = out."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Maximise the factors' value, subject to `sum of cost[k] <= limit[k]`."""

    problem: Problem
    num_choices: tuple[int, ...]
    factors: tuple[Factor, ...]
    totals: tuple[Total, ...]
    limits: np.ndarray
    """int64 [K]: what the budgets leave after the fixed costs."""
    unit: float
    """Value of one scaled unit."""

    def is_stage(self, variable: int) -> bool:
        """Whether the variable says if a stage is kept."""
        return 0 <= variable - len(self.problem.groups) < len(self.problem.stages)

    def loosest_bound(self) -> float:
        """Return the sum of the tables' largest values: a bound that needs no solving."""
        return float(sum(int(factor.value.max()) for factor in self.factors))

    def least_costs(self) -> np.ndarray:
        """Return int64 [K]: the sum of the tables' smallest costs, which no plan undercuts."""
        least = [factor.cost.reshape(len(factor.cost), -1).min(axis=1) for factor in self.factors]
        return np.asarray(np.array(least, dtype=np.int64).reshape(-1, len(self.limits)).sum(axis=0))

    def decode(self, choice: np.ndarray, pattern: np.ndarray) -> "Choice":
        """Return the named choice for one index per variable and one pattern index per factor."""
        removed = tuple(
            stage.id for i, stage in enumerate(self.problem.stages) if choice[len(self.problem.groups) + i] == 0
        )
        gone = {name for stage in self.problem.stages if stage.id in removed for name in stage.layers}
        inner = {group_id for stage in self.problem.stages if stage.id in removed for group_id in stage.groups}
        widths = {
            group.id: 0 if group.id in inner else group.widths[choice[i]] for i, group in enumerate(self.problem.groups)
        }
        patterns = {
            name: names[pattern[f]]
            for f, factor in enumerate(self.factors)
            for name, names in factor.layers
            if name not in gone
        }
        return Choice(widths=widths, patterns=patterns, removed=removed)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Widths, patterns and removed stages: what a plan decides."""

    widths: dict[str, int]
    patterns: dict[str, str] = field(default_factory=dict)
    removed: tuple[str, ...] = ()

    def totals(self, problem: Problem) -> Totals:
        """Return value and costs, looked up by the checker's own arithmetic."""
        return evaluate(problem, self.widths, self.patterns, self.removed)


class _Builder:
    """Collects factors and totals; merges what has no choice of its own."""

    def __init__(self, problem: Problem, quantum: int) -> None:
        self.problem = problem
        self.quantum = quantum
        self.group_index = {group.id: i for i, group in enumerate(problem.groups)}
        self.stage_of_layer = {name: s for s, stage in enumerate(problem.stages) for name in stage.layers}
        self.stage_of_group = {group_id: s for s, stage in enumerate(problem.stages) for group_id in stage.groups}
        self.num_choices = [len(group.widths) for group in problem.groups] + [2] * len(problem.stages)
        self.totals: list[Total] = []
        self.sums: dict[tuple[tuple[int, int], ...], _Sum] = {}
        self.unit = _unit(problem)
        self.factors: list[Factor] = []
        # A constant nothing: the graph has a table even when every group is frozen. It is absorbed otherwise.
        num_budgets = 1 + len(problem.other_budgets)
        self.add((), np.zeros(1, dtype=np.int64), np.zeros((num_budgets, 1), dtype=np.int64), None)

    def scaled(self, value: np.ndarray) -> np.ndarray:
        return np.ceil(np.asarray(value, dtype=np.float64) / self.unit).astype(np.int64)

    def stage_variable(self, stage: int | None) -> int | None:
        return None if stage is None else len(self.problem.groups) + stage

    def add_groups(self) -> None:
        for group_id, value in self.problem.group_value.items():
            stage = self.stage_variable(self.stage_of_group.get(group_id))
            scaled = self.scaled(value)[None]
            cost = np.zeros((1 + len(self.problem.other_budgets), *scaled.shape), dtype=np.int64)
            self.add((self.group_index[group_id],), scaled, cost, stage)

    def add_layer(self, layer: Layer) -> None:
        others = [layer.other_costs.get(b.id, np.zeros_like(layer.latency_ns)) for b in self.problem.other_budgets]
        value, cost = self.scaled(layer.value), np.stack([layer.latency_ns, *others]).astype(np.int64)
        row = column = None
        if len(layer.inputs) == 1 and value.shape[1] > 1:
            row = self.group_index[layer.inputs[0]]
        elif len(layer.inputs) > 1:
            terms = sorted(
                (self.group_index[group_id], times)
                for group_id, times in zip(layer.inputs, layer.input_multiplicity, strict=True)
            )
            total = self.sum_variable(tuple(terms))
            row = total.variable
            value, cost = _most(value, layer, total), -_most(-cost, layer, total)
        if layer.output is not None and value.shape[2] > 1:
            column = self.group_index[layer.output]
        if row is None:
            value, cost = value[:, 0], cost[:, :, 0]
        if column is None:
            value, cost = value[..., 0], cost[..., 0]
        elif row == column:
            value, cost = np.diagonal(value, axis1=1, axis2=2), np.diagonal(cost, axis1=2, axis2=3)
            row = None
        elif row is not None and row > column:
            value, cost, row, column = value.swapaxes(1, 2), cost.swapaxes(2, 3), column, row
        scope = tuple(variable for variable in (row, column) if variable is not None)
        names = ((layer.name, layer.patterns),) if len(layer.patterns) > 1 else ()
        self.add(scope, value, cost, self.stage_variable(self.stage_of_layer.get(layer.name)), names)

    def sum_variable(self, terms: tuple[tuple[int, int], ...]) -> "_Sum":
        """Return the variable of a sum of `multiplicity * width`; equal prefixes share theirs."""
        if terms in self.sums:
            return self.sums[terms]
        group, times = terms[-1]
        added = tuple(times * width for width in self.problem.groups[group].widths)
        if len(terms) == 1:
            self.sums[terms] = _Sum(variable=group, least=np.array(added), most=np.array(added))
            return self.sums[terms]
        left = self.sum_variable(terms[:-1])
        least, most = (counts[:, None] + np.array(added) for counts in (left.least, left.most))
        reached, index = np.unique(least // self.quantum, return_inverse=True)
        self.num_choices.append(len(reached))
        total = _Sum(variable=len(self.num_choices) - 1, least=reached * self.quantum + self.quantum, most=reached * 0)
        np.minimum.at(total.least, index.ravel(), least.ravel())
        np.maximum.at(total.most, index.ravel(), most.ravel())
        counts = (tuple(left.least.tolist()), added, tuple(total.least.tolist()))
        index = index.reshape(least.shape)
        self.totals.append(Total(left=left.variable, right=group, out=total.variable, index=index, counts=counts))
        self.sums[terms] = total
        return total

    def add(
        self,
        scope: tuple[int, ...],
        value: np.ndarray,
        cost: np.ndarray,
        stage: int | None,
        layers: tuple[tuple[str, tuple[str, ...]], ...] = (),
    ) -> None:
        if stage is not None:
            # The stage's axis: zeros where it is removed, the table where it stays.
            at = sum(variable < stage for variable in scope)
            scope = (*scope[:at], stage, *scope[at:])
            value = np.stack([np.zeros_like(value), value], axis=1 + at)
            cost = np.stack([np.zeros_like(cost), cost], axis=2 + at)
        free = [axis for axis, variable in enumerate(scope) if self.num_choices[variable] > 1]
        shape = tuple(self.num_choices[scope[axis]] for axis in free)
        self.factors.append(
            Factor(
                scope=tuple(scope[axis] for axis in free),
                value=np.ascontiguousarray(value.reshape(value.shape[0], *shape)),
                cost=np.ascontiguousarray(cost.reshape(*cost.shape[:2], *shape)),
                layers=layers,
            )
        )


@dataclass(frozen=True, kw_only=True)
class _Sum:
    """A variable whose choices stand for a number of channels each, or for a range of them when sums are rounded."""

    variable: int
    least: np.ndarray
    most: np.ndarray
    """int64 [n]: fewest and most channels of each choice."""


def _most(table: np.ndarray, layer: Layer, total: _Sum) -> np.ndarray:
    """Return [.., P, n, n_out]: the largest entry over the input counts that each choice of the sum may stand for."""
    first = np.searchsorted(layer.input_counts, total.least + layer.input_fixed)
    end = np.searchsorted(layer.input_counts, total.most + layer.input_fixed, side="right")
    return np.stack([table[..., a:b, :].max(axis=-2) for a, b in zip(first, end, strict=True)], axis=-2)


def _unit(problem: Problem) -> float:
    tables = [layer.value for layer in problem.layers] + list(problem.group_value.values())
    total = sum(float(np.abs(table).max(initial=0.0)) for table in tables)
    # frexp gives total < 2**exponent: a power of two keeps whole numbers whole.
    return float(2.0 ** (np.frexp(total)[1] - np.log2(VALUE_CEILING))) if total else 1.0


def build_graph(problem: Problem, quantum: int = 1) -> Graph:
    """Return the problem as factors; tables without a choice of their own are added into a table that covers them.

    With a quantum above 1, sums of channels within one of its multiples are one choice, and a layer gets its best entry
    over all counts a choice may stand for: a smaller graph that bounds the problem (value above, costs below).
    """
    builder = _Builder(problem, quantum)
    builder.add_groups()
    for layer in problem.layers:
        builder.add_layer(layer)
    budgets = [problem.budget_ns - problem.fixed_latency_ns, *(b.limit - b.fixed for b in problem.other_budgets)]
    return Graph(
        problem=problem,
        num_choices=tuple(builder.num_choices),
        factors=_absorb(builder.factors),
        totals=tuple(builder.totals),
        limits=np.array(budgets, dtype=np.int64),
        unit=builder.unit,
    )


def _absorb(factors: list[Factor]) -> tuple[Factor, ...]:
    """Add every factor with a single pattern into one whose scope covers its own, where there is one."""
    kept: list[Factor] = []
    for factor in sorted(factors, key=lambda f: (-len(f.scope), len(f.layers) == 0)):
        hosts = [i for i, host in enumerate(kept) if set(factor.scope) <= set(host.scope)] if not factor.layers else []
        if not hosts:
            kept.append(factor)
            continue
        host = kept[hosts[0]]
        shape = [n if v in factor.scope else 1 for v, n in zip(host.scope, host.value.shape[1:], strict=True)]
        kept[hosts[0]] = Factor(
            scope=host.scope,
            value=host.value + factor.value.reshape(1, *shape),
            cost=host.cost + factor.cost.reshape(factor.cost.shape[0], 1, *shape),
            layers=host.layers,
        )
    return tuple(kept)
