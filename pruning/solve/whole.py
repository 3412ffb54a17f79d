"""Graphs that do not split, and the plain CP-SAT baseline.

A graph that needs too large a table is still solved exactly inside windows: a few widths per group, evenly spread
first, then those around the best plan. Its bound is that of the same graph with the sums of channels rounded. CP-SAT
gets what time is left.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from pruning.check import VALUE_TOLERANCE, relative_gap
from pruning.problem import Plan, Problem, offer
from pruning.solve.answer import Run, make_plan
from pruning.solve.close import solve_split
from pruning.solve.cp_sat import Model, factor_rows
from pruning.solve.factors import Choice, Graph, build_graph
from pruning.solve.master import solve_master
from pruning.solve.price import DoesNotSplitError, Pricer

WINDOW_CHOICES = 8
"""Widths per group in a window, fewer when even that does not split."""
WINDOW_CEILINGS = (1 << 19, 1 << 22)
"""Largest table inside a window: small windows until they stop improving, then larger ones."""
MAX_QUANTUM = 1 << 12
"""Coarsest rounding of channel sums tried for a bound."""


def solve_whole(problem: Problem, graph: Graph, run: Run) -> Plan:
    """Return the best plan of all windows, then of CP-SAT; the bound is the tighter of rounded pricing and CP-SAT's."""
    bound, least = rounded_bound(problem, run)
    best: Plan | None = None
    for window in _windows(problem, bound, run):
        best = window if best is None or window.value > best.value else best
    choice = None if best is None else Choice(widths=best.widths, patterns=best.patterns, removed=best.removed)
    plan = make_plan(graph, choice, bound / graph.unit, least, run)
    if plan.status in ("optimal", "infeasible") or run.left_s() < 0:
        return plan
    return _better(plan, _by_cp_sat(graph, run, known=plan if plan.found else None), run)


def _better(plan: Plan, other: Plan, run: Run) -> Plan:
    """Return the plan of more value with the tighter bound of both."""
    if not (plan.found and other.found):
        proven = other.status == "infeasible" and not plan.found
        return replace(plan, status="infeasible") if proven else plan if plan.found else other
    best = plan if plan.value >= other.value else other
    bound = max(best.value, min(plan.bound, other.bound))
    gap = relative_gap(bound, best.value)
    status = "optimal" if gap <= max(run.tolerance, VALUE_TOLERANCE) else "feasible"
    return replace(best, bound=bound, gap=gap, status=status, seconds=other.seconds)


def rounded_bound(problem: Problem, run: Run) -> tuple[float, np.ndarray]:
    """Return a bound on the value and int64 [K] least costs from the finest rounding of channel sums that splits."""
    quantum = 2
    while quantum <= MAX_QUANTUM:
        graph = build_graph(problem, quantum)
        try:
            master = solve_master(Pricer(graph), run)
        except DoesNotSplitError:
            # 2, 3, 4, 6, 8, 12, 16, ...
            quantum = quantum * 3 // 2 if quantum.bit_count() == 1 else quantum * 4 // 3
            continue
        return master.bound * graph.unit, master.least
    graph = build_graph(problem)
    return graph.loosest_bound() * graph.unit, graph.least_costs()


def _windows(problem: Problem, bound: float, run: Run) -> Iterator[Plan]:
    """Yield the plans of successive windows, each better than the one before."""
    sizes = {group.id: len(group.widths) for group in problem.groups}
    spread = {group_id: _evenly(size, WINDOW_CHOICES) for group_id, size in sizes.items()}
    best: Plan | None = None
    for ceiling in WINDOW_CEILINGS:
        window, num_choices = spread, WINDOW_CHOICES
        while run.left_s() > 0:
            plan, num_choices = _solve_window(problem, window, num_choices, ceiling, run)
            if best is None or plan.value > best.value:
                if not plan.found:
                    break
                best = plan
                yield plan
            elif window is not spread:
                break
            if relative_gap(bound, best.value) <= run.tolerance:
                return
            window = {
                group.id: _around(group.widths.index(best.widths[group.id]), sizes[group.id], num_choices)
                if best.widths[group.id]
                else spread[group.id]
                for group in problem.groups
            }


def _solve_window(
    problem: Problem, window: dict[str, np.ndarray], num_choices: int, ceiling: int, run: Run
) -> tuple[Plan, int]:
    """Return the plan within a window, and to how many choices per group it was cut until it split."""
    while True:
        small = offer(problem, {group_id: _thin(kept, num_choices) for group_id, kept in window.items()})
        graph = build_graph(small)
        try:
            pricer = Pricer(graph, ceiling)
        except DoesNotSplitError:
            # One choice per group always splits.
            num_choices -= 1
            continue
        within = Run(solver=run.solver, seed=run.seed, tolerance=run.tolerance / 10, time_limit_s=run.left_s() / 2)
        return solve_split(graph, pricer, within), num_choices


def _evenly(size: int, count: int) -> np.ndarray:
    return np.asarray(np.unique(np.linspace(0, size - 1, min(size, count)).round().astype(np.int64)))


def _around(center: int, size: int, count: int) -> np.ndarray:
    first = max(0, min(center - count // 2, size - count))
    return np.asarray(np.arange(first, min(size, first + count)))


def _thin(kept: np.ndarray, count: int) -> np.ndarray:
    """Return at most `count` of the kept choices, the middle ones when they are neighbours, else evenly spread."""
    if len(kept) <= count:
        return kept
    first = (len(kept) - count) // 2
    neighbours = kept[-1] - kept[0] == len(kept) - 1
    return np.asarray(kept[first : first + count] if neighbours else kept[_evenly(len(kept), count)])


def _by_cp_sat(graph: Graph, run: Run, known: Plan | None = None) -> Plan:
    """Return CP-SAT's plan with one literal per table entry, hinted with the widths of a known plan."""
    tables = [factor_rows(graph, f) for f in range(len(graph.factors))]
    least = graph.least_costs()
    try:
        model = Model(graph, tables, range(len(graph.num_choices)))
    except MemoryError:
        return make_plan(graph, None, graph.loosest_bound(), least, run)
    hint: dict[int, int] = {}
    if known is not None:
        groups = enumerate(graph.problem.groups)
        hint = {i: group.widths.index(known.widths[group.id]) for i, group in groups if known.widths[group.id]}
    answer = model.solve(run, num_workers=2, hint=hint)
    choice: Choice | None = None
    if answer.rows is not None:
        variables = np.array([answer.choice[v] for v in range(len(graph.num_choices))], dtype=np.int64)
        pattern = np.array([table.pattern[row] for table, row in zip(tables, answer.rows, strict=True)], dtype=np.int64)
        choice = graph.decode(variables, pattern)
    return make_plan(graph, choice, min(answer.bound, graph.loosest_bound()), least, run)


def cp_sat(problem: Problem, *, seed: int = 0, tolerance: float = 1e-3, time_limit_s: float = 30.0) -> Plan:
    """Return the plan of plain CP-SAT: the baseline without pricing."""
    run = Run(solver="cp_sat", seed=seed, tolerance=tolerance, time_limit_s=time_limit_s)
    return _by_cp_sat(build_graph(problem), run)
