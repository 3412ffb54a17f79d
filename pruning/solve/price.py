"""Pricing: the best choice for any multipliers on the budgets, exact, by eliminating one variable after the other.

`max over choices of sum_f (w * value_f - multipliers . cost_f)` splits along the coupling graph; the pattern axis is
maximised inside each table first (`pruning.solve.order` says in which order, and from whom this is).
"""

from copy import copy
from dataclasses import dataclass, replace

import numpy as np

from pruning.solve.factors import Graph
from pruning.solve.order import ENTRIES_CEILING, Step, cheapest_order


@dataclass(frozen=True, kw_only=True)
class Priced:
    """Tables of one pricing pass."""

    tables: list[np.ndarray]
    """Factors maximised over patterns, then one message per step."""
    best: float
    """The maximum of the priced objective."""


class Pricer:
    """Prices one graph for any multipliers; the order of elimination is found once."""

    def __init__(self, graph: Graph, ceiling: int = ENTRIES_CEILING) -> None:
        """Raises DoesNotSplitError."""
        self.graph = graph
        self.steps = cheapest_order(graph.outline, ceiling)
        self.total_of = {total.out: total for total in graph.totals}
        self.num_factors = len(graph.factors)
        self.scopes = [factor.scope for factor in graph.factors] + [step.scope for step in self.steps]
        consumed = {source for step in self.steps for source in step.sources}
        self.roots = [t for t in range(len(self.scopes)) if t not in consumed]
        sizes = [factor.value.size for factor in graph.factors]
        self.slices = [slice(end - size, end) for size, end in zip(sizes, np.cumsum(sizes).tolist(), strict=True)]
        self.value = np.concatenate([f.value.ravel() for f in graph.factors]) if sizes else np.zeros(0)
        self.cost = np.concatenate(
            [f.cost.reshape(f.cost.shape[0], -1) for f in graph.factors], axis=1, dtype=np.float64
        )

    def limited(self, limits: np.ndarray) -> "Pricer":
        """Return the same tables under other limits, int64 [K]."""
        other = copy(self)
        other.graph = replace(self.graph, limits=limits)
        return other

    def bag(self, step: Step) -> tuple[int, ...]:
        """Return the variables of the step's joint table: its own first, unless it is substituted."""
        return step.scope if step.is_total else (step.variable, *step.scope)

    def spread(self, table: np.ndarray, source: int, step: Step) -> np.ndarray:
        """Return a source table on the axes of the step's bag (length 1 where it does not depend)."""
        return self.spread_scope(table, self.scopes[source], step)

    def spread_scope(self, table: np.ndarray, scope: tuple[int, ...], step: Step) -> np.ndarray:
        """Return a table over `scope` on the axes of the step's bag."""
        bag = self.bag(step)
        if step.is_total and step.variable in scope:
            return np.asarray(table[self.open_index(scope, step)])
        order = sorted(range(len(scope)), key=lambda axis: bag.index(scope[axis]))
        present = set(scope)
        shape = [self.graph.num_choices[v] if v in present else 1 for v in bag]
        return table.transpose(order).reshape(shape)

    def open_index(self, scope: tuple[int, ...], step: Step) -> tuple[np.ndarray, ...]:
        """Return, per variable of `scope`, its choice on the open grid of the step's bag."""
        bag, total = self.bag(step), self.total_of.get(step.variable)

        def along(values: np.ndarray, *variables: int) -> np.ndarray:
            if variables != tuple(sorted(variables)):
                values = values.T
            return values.reshape([self.graph.num_choices[v] if v in variables else 1 for v in bag])

        return tuple(
            along(total.index, total.left, total.right)
            if total is not None and v == total.out
            else along(np.arange(self.graph.num_choices[v]), v)
            for v in scope
        )

    def entries(self, source: int, step: Step) -> np.ndarray:
        """Return, per entry of the step's bag, the entry of a source table it reads."""
        shape = [self.graph.num_choices[v] for v in self.scopes[source]]
        index = np.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape)
        if step.variable < 0:
            return index.reshape(1)
        bag = [self.graph.num_choices[v] for v in self.bag(step)]
        return np.broadcast_to(self.spread(index, source, step), bag).ravel()

    def split_entries(self, entry: np.ndarray, step: Step) -> tuple[np.ndarray, np.ndarray]:
        """Return the step's own choice (0 where it is substituted) and the message's entry, per entry of the bag."""
        if step.is_total:
            return np.zeros_like(entry), entry
        own, rest = np.divmod(entry, int(np.prod([self.graph.num_choices[v] for v in step.scope], dtype=np.int64)))
        return own, rest

    def joint(self, tables: list[np.ndarray], step: Step) -> np.ndarray:
        """Return the sum of the step's sources over its whole bag."""
        bag = np.zeros([self.graph.num_choices[v] for v in self.bag(step)])
        for source in step.sources:
            bag += self.spread(tables[source], source, step)
        return bag

    def price(self, multipliers: np.ndarray, value_weight: float = 1.0) -> Priced:
        """Return the tables and the maximum of `value_weight * value - multipliers . cost`."""
        reduced = value_weight * self.value - multipliers @ self.cost
        tables = []
        for at, factor in zip(self.slices, self.graph.factors, strict=True):
            table = reduced[at].reshape(factor.value.shape)
            tables.append(table[0] if len(table) == 1 else table.max(axis=0))
        for step in self.steps:
            bag = self.joint(tables, step)
            tables.append(bag if step.is_total else bag.max(axis=0))
        return Priced(tables=tables, best=float(sum(float(tables[root]) for root in self.roots)))

    def choose(
        self, priced: Priced, multipliers: np.ndarray, value_weight: float = 1.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return a maximiser: one index per variable, one pattern index per factor."""
        choice = np.zeros(len(self.graph.num_choices), dtype=np.int64)
        for step in reversed(self.steps):
            if step.is_total:
                total = self.total_of[step.variable]
                choice[step.variable] = total.index[choice[total.left], choice[total.right]]
                continue
            along = np.zeros(self.graph.num_choices[step.variable])
            for source in step.sources:
                at = tuple(slice(None) if v == step.variable else choice[v] for v in self.scopes[source])
                along += priced.tables[source][at]
            choice[step.variable] = along.argmax()
        pattern = np.zeros(self.num_factors, dtype=np.int64)
        for f, factor in enumerate(self.graph.factors):
            at = tuple(choice[v] for v in factor.scope)
            if len(factor.value) > 1:
                reduced = (
                    value_weight * factor.value[(slice(None), *at)]
                    - multipliers @ factor.cost[(slice(None), slice(None), *at)]
                )
                pattern[f] = reduced.argmax()
        return choice, pattern

    def totals(self, choice: np.ndarray, pattern: np.ndarray) -> tuple[int, np.ndarray]:
        """Return scaled value and costs [K] of a choice."""
        value, cost = 0, np.zeros(len(self.graph.limits), dtype=np.int64)
        for p, factor in zip(pattern, self.graph.factors, strict=True):
            at = (p, *(choice[v] for v in factor.scope))
            value += int(factor.value[at])
            cost += factor.cost[(slice(None), *at)]
        return value, cost

    def outside(self, priced: Priced) -> list[np.ndarray]:
        """Return, per step, the best the rest of the network can add for each entry of the step's message."""
        outside: list[np.ndarray] = [np.zeros(())] * len(self.steps)
        for root in self.roots:
            if root >= self.num_factors:
                outside[root - self.num_factors] = np.asarray(priced.best - priced.tables[root])
        for s in reversed(range(len(self.steps))):
            step = self.steps[s]
            completed = self.completed(priced, outside, s)
            for source in step.sources:
                if source >= self.num_factors:
                    best = self._max_marginal(completed, self.scopes[source], step)
                    outside[source - self.num_factors] = best - priced.tables[source]
        return outside

    def completed(self, priced: Priced, outside: list[np.ndarray], s: int) -> np.ndarray:
        """Return, for every entry of step s's bag, the best priced objective of a whole plan through it."""
        step = self.steps[s]
        own = outside[s] if step.is_total else outside[s][None]
        return np.asarray(self.joint(priced.tables, step) + own)

    def best_through(self, priced: Priced) -> dict[int, np.ndarray]:
        """Return, per variable, float64 [n_v]: the best priced objective of a whole plan with each of its choices.

        Totals are left out.
        """
        outside = self.outside(priced)
        return {
            step.variable: (best := self.completed(priced, outside, s)).max(axis=tuple(range(1, best.ndim)))
            for s, step in enumerate(self.steps)
            if not step.is_total
        }

    def _max_marginal(self, completed: np.ndarray, scope: tuple[int, ...], step: Step) -> np.ndarray:
        shape = [self.graph.num_choices[v] for v in scope]
        if step.is_total and step.variable in scope:
            best = np.full(shape, -np.inf)
            np.maximum.at(best, tuple(np.broadcast_arrays(*self.open_index(scope, step), completed)[:-1]), completed)
            return best
        bag = self.bag(step)
        reduced = completed.max(axis=tuple(axis for axis, v in enumerate(bag) if v not in scope))
        left = [v for v in bag if v in scope]
        return np.asarray(reduced.transpose([left.index(v) for v in scope]))
