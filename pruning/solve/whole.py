"""Graphs that do not split, and the plain CP-SAT baseline.

A graph that needs too large a table is solved on smaller graphs that bound it (`pruning.solve.relax`): their plans, priced under
limits tightened by what they overrun in truth, are plans of the problem, and around the best of them a window of a few widths per
group is solved as sharply as it allows. What cannot beat the best plan is fixed; the rest is a smaller problem, whose graph is
sharper, often the problem's own. CP-SAT gets what is left.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from pruning.check import relative_gap
from pruning.problem import Plan, Problem, offer
from pruning.solve.answer import Run, make_plan
from pruning.solve.build import build_graph
from pruning.solve.close import solve_split
from pruning.solve.columns import Search
from pruning.solve.cp_sat import ROWS_CEILING, Model, factor_rows
from pruning.solve.factors import Choice, Graph
from pruning.solve.least import Least, least_costs, true_costs
from pruning.solve.master import BOUND_MARGIN, Column, Master, solve_master
from pruning.solve.order import DoesNotSplitError
from pruning.solve.price import Pricer
from pruning.solve.relax import narrowed, sharpest

ROUND_ENTRIES = (1 << 20, 1 << 23, *(1 << 24,) * 4)
"""Table entries of relaxed graphs in a row; each is of the choices the one before could not rule out, around a better centre."""
MAX_TIGHTER = 4
"""Times the limits are tightened by what the relaxed plan overruns."""
SEARCH_WIDTH = 256
WINDOW = 7
"""Widths per group around the best plan."""
WINDOW_ENTRIES = 1 << 21
CLOSE_ROWS = 40_000
"""Table rows of the largest graph CP-SAT closes; on larger ones it finds nothing more in seconds."""


@dataclass(kw_only=True)
class Bracket:
    """The best plan of the whole problem so far, and the bound."""

    problem: Problem
    limits: np.ndarray
    best: Choice | None = None
    value: float = -np.inf
    bound: float = np.inf
    nearest: Choice | None = None
    """Without a plan: the choice that overruns least."""
    overrun: float = np.inf
    windowed: float | None = None
    """The value around which nothing more was found."""

    def gap(self) -> float:
        """Return the proven gap; 1 without a plan, 0 when it is proven that there is none."""
        if self.best is None:
            return 0.0 if self.bound == -np.inf else 1.0
        return relative_gap(self.bound, self.value)

    def bounded(self, bound: float) -> None:
        """Take a bound on every plan better than the best."""
        self.bound = min(self.bound, max(bound, self.value))

    def tried(self, choice: Choice) -> np.ndarray:
        """Take a choice if it is a better plan; return what it overruns, int64 [K] >= 0."""
        over = np.maximum(0, np.array(true_costs(self.problem, choice)) - self.limits)
        if not over.any():
            value = choice.totals(self.problem).value
            if value > self.value:
                self.best, self.value = choice, value
        elif float((over / np.maximum(1, self.limits)).max()) < self.overrun:
            self.nearest, self.overrun = choice, float((over / np.maximum(1, self.limits)).max())
        return np.asarray(over)

    @property
    def centre(self) -> dict[str, int]:
        """Return the widths to look around, empty before any choice is known."""
        known = self.best or self.nearest
        return known.widths if known else {}


def solve_whole(
    problem: Problem, graph: Graph, run: Run, *, known: Iterable[Choice] = (), least: Least | None = None
) -> Plan:
    """Return the best plan of relaxed graphs, windows and CP-SAT, with the tightest of their bounds.

    `known` choices are tried first; `least` saves the search for the least costs where they are known.
    """
    bracket = Bracket(problem=problem, limits=graph.limits, bound=graph.loosest_bound() * graph.unit)
    least = least or least_costs(problem, graph)
    for choice in (*known, *least.choices):
        bracket.tried(choice)
    if (least.cost > graph.limits).any() and least.proven:
        bracket.bound = -np.inf
    left = problem
    for entries in ROUND_ENTRIES:
        if bracket.gap() <= run.tolerance or run.left_s() < 0:
            break
        smaller = _round(left, bracket, entries, run)
        if smaller is None:
            break
        left = smaller
    if bracket.gap() > run.tolerance and run.left_s() > 0:
        _by_cp_sat(bracket, build_graph(left), run, CLOSE_ROWS)
    return make_plan(graph, bracket.best, bracket.bound / graph.unit, least, run)


def _round(left: Problem, bracket: Bracket, entries: int, run: Run) -> Problem | None:
    """Improve plan and bound on what is left of the problem; return what is left then, None when nothing more is to be had."""
    try:
        pricer = sharpest(left, bracket.centre, entries)
    except DoesNotSplitError:
        _windows(left, bracket, run)
        return None
    graph = pricer.graph
    if graph.exact:
        bracket.bounded(_exact(graph, pricer, bracket, run))
        return None
    before = bracket.value
    master = solve_master(pricer, run)
    bracket.bounded(master.bound * graph.unit)
    if bracket.gap() <= run.tolerance:
        return None
    _tighten(pricer, master, bracket, run)
    _windows(left, bracket, run)
    if bracket.gap() <= run.tolerance or bracket.best is None:
        return None
    priced = pricer.price(master.multipliers)
    offset = float(master.multipliers @ graph.limits)
    margin = BOUND_MARGIN * (abs(priced.best) + abs(offset))
    smaller = narrowed(left, graph, pricer.best_through(priced), bracket.value / graph.unit - offset - margin)
    fewer = sum(len(g.widths) for g in smaller.groups) < sum(len(g.widths) for g in left.groups)
    return smaller if fewer or bracket.value > before or entries < ROUND_ENTRIES[-1] else None


def _exact(graph: Graph, pricer: Pricer, bracket: Bracket, run: Run) -> float:
    """Solve a graph that is a part of the problem as it is; return its bound in units of value."""
    plan = solve_split(graph, pricer, run)
    if plan.found:
        bracket.tried(Choice(widths=plan.widths, patterns=plan.patterns, removed=plan.removed))
        return plan.bound
    return -np.inf if plan.status == "infeasible" else np.inf


def _tighten(pricer: Pricer, master: Master, bracket: Bracket, run: Run) -> None:
    """Try the plans of a relaxed graph, under limits tightened until one of them keeps the true ones."""
    graph = pricer.graph
    limits = graph.limits.copy()
    for _ in range(MAX_TIGHTER):
        best = _searched(pricer, master, limits)
        columns: Iterable[Column] = [column for column in (best, *master.columns) if column is not None]
        overruns = [bracket.tried(graph.decode(column.choice, column.pattern)) for column in columns]
        if best is None or not overruns[0].any() or run.left_s() < 0:
            return
        limits = limits - overruns[0]
        pricer = pricer.limited(limits)
        master = solve_master(pricer, run)


def _searched(pricer: Pricer, master: Master, limits: np.ndarray) -> Column | None:
    """Return the best plan within the limits that a narrow search finds."""
    if master.bound == -np.inf:
        return None
    least = -(2**62) if master.best is None else master.best.value + 1
    return Search(pricer, master.multipliers).run(least, SEARCH_WIDTH).best or master.best


def _windows(problem: Problem, bracket: Bracket, run: Run) -> None:
    """Solve windows around the best plan until they bring nothing more."""
    while bracket.windowed != bracket.value and run.left_s() > 0 and bracket.gap() > run.tolerance:
        bracket.windowed = bracket.value
        _window(problem, bracket, WINDOW, run)


def _window(problem: Problem, bracket: Bracket, size: int, run: Run) -> None:
    """Try the best plans of at most `size` widths per group, fewer when even those do not split."""
    keep = {group.id: _around(group.widths, bracket.centre.get(group.id, 0), size) for group in problem.groups}
    small = offer(problem, keep)
    try:
        pricer = sharpest(small, bracket.centre, WINDOW_ENTRIES)
    except DoesNotSplitError:
        if size > 1:
            _window(problem, bracket, size - 1, run)
        return
    within = replace(run, tolerance=run.tolerance / 4, time_limit_s=run.time_limit_s - max(0.0, run.left_s()) / 2)
    if pricer.graph.exact:
        _exact(pricer.graph, pricer, bracket, within)
    else:
        _tighten(pricer, solve_master(pricer, within), bracket, within)


def _around(widths: tuple[int, ...], centre: int, size: int) -> np.ndarray:
    """Return the indices of the `size` widths next to the centre; evenly spread ones where there is none."""
    if not centre:
        return np.unique(np.linspace(0, len(widths) - 1, min(size, len(widths))).round().astype(np.int64))
    at = int(np.searchsorted(widths, centre))
    first = max(0, min(at - size // 2, len(widths) - size))
    return np.arange(first, min(len(widths), first + size))


def _by_cp_sat(bracket: Bracket, graph: Graph, run: Run, ceiling: int = ROWS_CEILING) -> None:
    """Let CP-SAT, one literal per table entry, improve plan and bound, hinted with the best plan."""
    tables = [factor_rows(graph, f) for f in range(len(graph.factors))]
    try:
        model = Model(graph, tables, range(len(graph.num_choices)), ceiling)
    except MemoryError:
        return
    groups = enumerate(graph.problem.groups)
    centre = bracket.centre
    hint = {i: group.widths.index(centre[group.id]) for i, group in groups if centre.get(group.id) in group.widths}
    answer = model.solve(run, num_workers=2, hint=hint)
    bracket.bounded(answer.bound * graph.unit)
    if answer.rows is not None:
        variables = np.array([answer.choice[v] for v in range(len(graph.num_choices))], dtype=np.int64)
        pattern = np.array([table.pattern[row] for table, row in zip(tables, answer.rows, strict=True)], dtype=np.int64)
        bracket.tried(graph.decode(variables, pattern))


def cp_sat(problem: Problem, *, seed: int = 0, tolerance: float = 1e-3, time_limit_s: float = 30.0) -> Plan:
    """Return the plan of plain CP-SAT: the baseline without pricing."""
    run = Run(solver="cp_sat", seed=seed, tolerance=tolerance, time_limit_s=time_limit_s)
    graph = build_graph(problem)
    bracket = Bracket(problem=problem, limits=graph.limits, bound=graph.loosest_bound() * graph.unit)
    _by_cp_sat(bracket, graph, run)
    return make_plan(graph, bracket.best, bracket.bound / graph.unit, least_costs(problem, graph), run)
