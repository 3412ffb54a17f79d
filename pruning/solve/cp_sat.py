"""The integer model for CP-SAT: one literal per choice of a variable, one per row of a table.

It closes what pricing and column search leave open, solves graphs that do not split, and is the plain baseline
`cp_sat`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ortools.sat.python import cp_model

from pruning.solve.answer import Run
from pruning.solve.factors import Graph

ROWS_CEILING = 400_000
"""Rows of all tables together; a model beyond it would not fit in a gigabyte."""


@dataclass(frozen=True, kw_only=True)
class TableRows:
    """A table as a list: row r asks for `choice[:, r]` of the scope and gives and costs what it says."""

    scope: tuple[int, ...]
    choice: np.ndarray
    """int64 [scope, n]; -1 where any choice will do."""
    pattern: np.ndarray
    """int64 [n]: pattern index of a factor's rows."""
    value: np.ndarray
    cost: np.ndarray
    """int64 [K, n]."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What CP-SAT found: row per table and choice per variable of the best plan (None: no plan), and its bound."""

    rows: list[int] | None
    choice: dict[int, int]
    bound: float
    """No plan has a larger value; -inf when it is proven that there is none."""


def factor_rows(graph: Graph, f: int) -> TableRows:
    """Return factor f with one row per entry and pattern; choices that a removed stage ignores share a row."""
    factor = graph.factors[f]
    parts = [(factor.value, factor.cost, np.zeros(0, dtype=np.int64))]
    stages = [axis for axis, v in enumerate(factor.scope) if graph.is_stage(v)]
    if stages:
        axis = stages[0]
        gone_value, gone_cost = factor.value[:1].take([0], 1 + axis), factor.cost[:, :1].take([0], 2 + axis)
        alike = [a for a in range(len(factor.scope)) if a != axis and _constant(gone_value, gone_cost, a)]
        for a in alike:
            gone_value, gone_cost = gone_value.take([0], 1 + a), gone_cost.take([0], 2 + a)
        kept = (factor.value.take([1], 1 + axis), factor.cost.take([1], 2 + axis), np.zeros(0, dtype=np.int64))
        parts = [kept, (gone_value, gone_cost, np.array(alike, dtype=np.int64))]
    rows = [_rows(value, cost) for value, cost, _ in parts]
    if stages:
        rows[0][0][stages[0]] = 1
        rows[1][0][parts[1][2]] = -1
    choice, pattern, value, cost = (np.concatenate([row[i] for row in rows], axis=-1) for i in range(4))
    return TableRows(scope=factor.scope, choice=choice, pattern=pattern, value=value, cost=cost)


def _constant(value: np.ndarray, cost: np.ndarray, axis: int) -> bool:
    return bool((value == value.take([0], 1 + axis)).all() and (cost == cost.take([0], 2 + axis)).all())


def _rows(value: np.ndarray, cost: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return choice [axes, n], pattern [n], value [n] and cost [K, n] of every entry of [P, ...] tables."""
    index = np.indices(value.shape).reshape(value.ndim, -1)
    return index[1:].copy(), index[0], value.ravel(), cost.reshape(len(cost), -1)


class Model:
    """Maximise the value of the picked rows within the limits.

    A fresh model per solve: CP-SAT keeps no state between them.
    """

    def __init__(
        self, graph: Graph, tables: Sequence[TableRows], variables: Sequence[int], ceiling: int = ROWS_CEILING
    ) -> None:
        """Raises MemoryError before building a model beyond the ceiling."""
        if sum(table.value.size for table in tables) > ceiling:
            raise MemoryError("the tables of this problem are too large for CP-SAT")
        self.graph = graph
        self.tables = tables
        self.model = cp_model.CpModel()
        self.choices = {v: [self.model.new_bool_var("") for _ in range(graph.num_choices[v])] for v in variables}
        self.rows = [[self.model.new_bool_var("") for _ in range(table.value.size)] for table in tables]
        self.add_one_choice_per_variable()
        self.add_one_row_per_table()
        self.add_rows_follow_choices()
        self.add_totals()
        self.add_limits()
        self.set_objective()

    def add_one_choice_per_variable(self) -> None:
        for literals in self.choices.values():
            self.model.add_exactly_one(literals)

    def add_one_row_per_table(self) -> None:
        for literals in self.rows:
            self.model.add_exactly_one(literals)

    def add_rows_follow_choices(self) -> None:
        for table, rows in zip(self.tables, self.rows, strict=True):
            for axis, variable in enumerate(table.scope):
                free = bool((table.choice[axis] < 0).any())
                order = np.argsort(table.choice[axis], kind="stable")
                bounds = np.searchsorted(table.choice[axis][order], np.arange(len(self.choices[variable]) + 1))
                for literal, first, last in zip(self.choices[variable], bounds[:-1], bounds[1:], strict=True):
                    taken = cp_model.LinearExpr.sum([rows[r] for r in order[first:last]])
                    # Sums of rows instead of implications: the linear relaxation of a tree is then tight.
                    self.model.add(taken <= literal) if free else self.model.add(taken == literal)

    def add_totals(self) -> None:
        for total in self.graph.totals:
            if total.out in self.choices:
                sides = zip((total.left, total.right), total.counts, strict=True)
                whole = sum(cp_model.LinearExpr.weighted_sum(self.choices[v], counts) for v, counts in sides)
                out = self.choices[total.out]
                self.model.add(whole >= cp_model.LinearExpr.weighted_sum(out, total.least))
                self.model.add(whole <= cp_model.LinearExpr.weighted_sum(out, total.most))

    def add_limits(self) -> None:
        literals = [literal for rows in self.rows for literal in rows]
        for k, limit in enumerate(self.graph.limits):
            costs = (
                np.concatenate([table.cost[k] for table in self.tables]) if self.tables else np.zeros(0, dtype=np.int64)
            )
            self.model.add(cp_model.LinearExpr.weighted_sum(literals, costs.tolist()) <= int(limit))

    def set_objective(self) -> None:
        literals = [literal for rows in self.rows for literal in rows]
        values = np.concatenate([table.value for table in self.tables]) if self.tables else np.zeros(0, dtype=np.int64)
        self.objective = cp_model.LinearExpr.weighted_sum(literals, values.tolist())
        self.model.maximize(self.objective)

    def solve(
        self,
        run: Run,
        *,
        num_workers: int = 1,
        hint: Mapping[int, int] | None = None,
    ) -> Answer:
        """Return the best plan found in time.

        With one worker the same seed gives the same answer unless the time runs out; two are faster, but race.
        """
        # Bounds already known for the value are no constraints here on purpose: with one on the objective, the presolve of OR-Tools 9.15
        # cuts off better plans and calls a worse one optimal (test_solve.py holds such a problem). The caller keeps what is known.
        for variable, choice in (hint or {}).items():
            for i, literal in enumerate(self.choices.get(variable, ())):
                self.model.add_hint(literal, i == choice)
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = num_workers
        solver.parameters.random_seed = run.seed
        solver.parameters.max_time_in_seconds = max(0.05, run.left_s())
        solver.parameters.relative_gap_limit = run.tolerance
        status = solver.solve(self.model)
        if status == cp_model.INFEASIBLE:
            return Answer(rows=None, choice={}, bound=-np.inf)
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return Answer(rows=None, choice={}, bound=np.inf)
        return Answer(
            rows=[next(r for r, literal in enumerate(rows) if solver.boolean_value(literal)) for rows in self.rows],
            choice={v: next(i for i, x in enumerate(xs) if solver.boolean_value(x)) for v, xs in self.choices.items()},
            bound=float(solver.best_objective_bound),
        )
