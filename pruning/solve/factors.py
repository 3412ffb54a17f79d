"""A problem as integer tables over choice variables: the only form the solvers of this room work on.

Letters: K = budgets (latency first), P = patterns of a factor, n_v = choices of variable v.
Variables are, in this order: coupling groups, removable stages (choice 0 removed, 1 kept), totals of several input
groups.
"""

from dataclasses import dataclass, field

import numpy as np

from pruning.check import Totals, evaluate
from pruning.problem import Problem

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
    counts: tuple[tuple[int, ...], tuple[int, ...]]
    """Channels each choice of left and right stands for."""
    least: tuple[int, ...]
    most: tuple[int, ...]
    """Fewest and most channels of each choice of out: counts whose tables are alike are one choice."""


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A graph without its tables: what the order of elimination depends on."""

    num_choices: tuple[int, ...]
    scopes: tuple[tuple[int, ...], ...]
    """Of the factors."""
    totals: tuple[tuple[int, int, int], ...]
    """(left, right, out), parts first."""


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
    exact: bool = True
    """Whether the tables are the problem's own; else they bound them: value above, costs below (`pruning.solve.totals`)."""

    @property
    def outline(self) -> Outline:
        """Return the graph without its tables."""
        return Outline(
            num_choices=self.num_choices,
            scopes=tuple(factor.scope for factor in self.factors),
            totals=tuple((total.left, total.right, total.out) for total in self.totals),
        )

    def is_stage(self, variable: int) -> bool:
        """Whether the variable says if a stage is kept."""
        return 0 <= variable - len(self.problem.groups) < len(self.problem.stages)

    def loosest_bound(self) -> float:
        """Return the sum of the tables' largest values: a bound that needs no solving."""
        return float(sum(int(factor.value.max()) for factor in self.factors))

    def least_value(self) -> float:
        """Return the sum of the tables' smallest values, which no plan undercuts."""
        return float(sum(int(factor.value.min()) for factor in self.factors))

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
