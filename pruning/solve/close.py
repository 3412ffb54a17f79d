"""Graphs that split: price, search columns, close with CP-SAT what is still open."""

import math
from dataclasses import dataclass

import numpy as np

from pruning.check import relative_gap
from pruning.problem import Plan
from pruning.solve.answer import Run, make_plan
from pruning.solve.columns import Columns, Search
from pruning.solve.cp_sat import Model, TableRows
from pruning.solve.factors import Graph
from pruning.solve.least import Least
from pruning.solve.master import Column, Master, solve_master
from pruning.solve.price import Pricer

SEARCHES = ((256, False), (256, True), (1024, True), (4096, True), (4096, False), (32768, False))
"""(partial plans kept a step, whether plans within the tolerance of the bound are all that is looked for), one after the other
while the gap is above the tolerance. Those alone are found faster; looking for every better plan proves more."""
PIECE_WIDTH = 4096
"""Columns a piece may have to enter the CP-SAT close whole; larger pieces enter in parts."""


@dataclass(kw_only=True)
class State:
    """The best plan and the best bound so far, in scaled units."""

    best: Column | None
    bound: float

    def gap(self) -> float:
        """Return the proven gap; 1 without a plan, 0 when it is proven that there is none."""
        if self.best is None:
            return 0.0 if self.bound == -np.inf else 1.0
        return relative_gap(self.bound, float(self.best.value))

    def learn(self, best: Column | None, bound: float) -> None:
        """Take a better plan and a bound that holds for every plan better than the one known before."""
        before = -np.inf if self.best is None else float(self.best.value)
        if best is not None and best.value > before:
            self.best = best
        self.bound = min(self.bound, max(bound, before))


def solve_split(graph: Graph, pricer: Pricer, run: Run) -> Plan:
    """Return the plan of a graph that splits, proven to the run's tolerance unless the time runs out."""
    master = solve_master(pricer, run)
    state = State(best=master.best, bound=master.bound)
    if state.gap() > 0.0:
        search = Search(pricer, master.multipliers)
        for width, aimed in SEARCHES:
            least = _beyond(state)
            aim = max(least, math.ceil(state.bound - run.tolerance * abs(state.bound))) if aimed else least
            found = search.run(aim, width)
            # Below what was aimed at there may still be better plans than the best.
            state.learn(found.best, found.bound if aim == least else max(found.bound, float(aim - 1)))
            if state.gap() <= run.tolerance or run.left_s() < 0:
                break
        if state.gap() > run.tolerance and run.left_s() > 0:
            close(search, state, master, run)
    choice = None if state.best is None else graph.decode(state.best.choice, state.best.pattern)
    return make_plan(graph, choice, state.bound, Least(cost=master.least), run)


def _beyond(state: State) -> int:
    """Return the least value worth finding."""
    return -(2**62) if state.best is None else state.best.value + 1


def close(search: Search, state: State, master: Master, run: Run) -> None:
    """Let CP-SAT choose the widths between the pieces and a column per piece, where that may still beat the plan."""
    pieces = search.pieces(_beyond(state), PIECE_WIDTH)
    graph, scopes = search.graph, search.pricer.scopes
    tables = {t: _column_rows(graph, scopes[t], columns) for t, columns in pieces.tables.items()}
    try:
        model = Model(graph, list(tables.values()), pieces.variables)
    except MemoryError:
        return
    answer = model.solve(
        run,
        hint=dict(enumerate(master.columns[-1].choice.tolist())),
    )
    if answer.rows is None:
        state.learn(None, answer.bound)
        return
    choice = np.zeros(len(graph.num_choices), dtype=np.int64)
    for variable, index in answer.choice.items():
        choice[variable] = index
    state.learn(search.trace(pieces.all_tables, dict(zip(tables, answer.rows, strict=True)), choice), answer.bound)


def _column_rows(graph: Graph, scope: tuple[int, ...], columns: Columns) -> TableRows:
    shape = [graph.num_choices[v] for v in scope]
    entry = np.repeat(np.arange(len(columns.start) - 1), np.diff(columns.start))
    choice = np.indices(shape).reshape(len(scope), math.prod(shape))[:, entry]
    return TableRows(scope=scope, choice=choice, pattern=columns.pattern, value=columns.value, cost=columns.cost)
