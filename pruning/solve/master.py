"""The master problem: multipliers, bound and first plans by column generation over whole-network plans (GLOP).

`max sum_c x_c value_c  s.t.  sum_c x_c cost_ck <= limit_k,  sum_c x_c = 1,  x >= 0`; pricing finds the column of best
reduced value, and every pricing pass gives the Lagrangian bound `max(value - m . cost) + m . limit` (Dantzig & Wolfe,
doi:10.1287/opre.8.1.101).
"""

from dataclasses import dataclass, field

import numpy as np
from ortools.linear_solver import pywraplp

from pruning.solve.answer import Run
from pruning.solve.price import Pricer

MAX_ROUNDS = 80
BOUND_MARGIN = 1e-12
"""Relative allowance for float rounding in a priced sum (some hundred terms of float64)."""
OVERRUN_PRICE = 1e3
"""Price of overrunning a budget by its whole scale, in largest plan values: feasible before a fitting plan is known."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One whole plan in scaled integers."""

    choice: np.ndarray
    pattern: np.ndarray
    value: int
    cost: np.ndarray


@dataclass(kw_only=True)
class Master:
    """What column generation leaves behind."""

    multipliers: np.ndarray
    """float64 [K] >= 0: scaled value per unit of each budget, at the best bound."""
    bound: float
    """No plan within the limits has a larger scaled value."""
    best: Column | None
    """The best plan within the limits so far."""
    least: np.ndarray
    """int64 [K]: least cost per budget over all plans, each budget alone."""
    columns: list[Column] = field(default_factory=list)


def solve_master(pricer: Pricer, run: Run) -> Master:
    """Return multipliers, bound and first plans; some pricing passes are made whatever the time limit.

    When some budget is below its least cost, `best` is None and the bound is -inf: proven infeasible.
    """
    limits = pricer.graph.limits
    num_budgets = len(limits)
    zero = np.zeros(num_budgets)
    columns = [_price(pricer, zero)[0]]
    least = []
    for k in range(num_budgets):
        columns.append(_price(pricer, np.eye(num_budgets)[k], value_weight=0.0)[0])
        least.append(columns[-1].cost[k])
    master = Master(
        multipliers=zero, bound=_margin(columns[0].value), best=None, least=np.array(least), columns=columns
    )
    if (master.least > limits).any():
        master.bound = -np.inf
        return master
    _keep_best(master, columns, limits)
    if master.best is columns[0]:
        return master
    for _ in range(MAX_ROUNDS):
        multipliers, objective = _restricted_master(columns, limits)
        column, priced = _price(pricer, multipliers)
        bound = _margin(priced + float(multipliers @ limits))
        if bound < master.bound:
            master.bound, master.multipliers = bound, multipliers
        columns.append(column)
        _keep_best(master, [column], limits)
        if bound <= objective + 1e-9 * max(1.0, abs(objective)) or run.left_s() < 0:
            break
    if master.bound < pricer.graph.least_value():
        # Even the multipliers' prices for an overrun do not buy a plan: the budgets contradict each other.
        master.bound = -np.inf
    return master


def _margin(bound: float) -> float:
    return bound + BOUND_MARGIN * abs(bound)


def _keep_best(master: Master, columns: list[Column], limits: np.ndarray) -> None:
    for column in columns:
        if (column.cost <= limits).all() and (master.best is None or column.value > master.best.value):
            master.best = column


def _price(pricer: Pricer, multipliers: np.ndarray, value_weight: float = 1.0) -> tuple[Column, float]:
    priced = pricer.price(multipliers, value_weight)
    choice, pattern = pricer.choose(priced, multipliers, value_weight)
    value, cost = pricer.totals(choice, pattern)
    return Column(choice=choice, pattern=pattern, value=value, cost=cost), priced.best


def _restricted_master(columns: list[Column], limits: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the multipliers [K] and the objective of the master over the known columns."""
    solver = pywraplp.Solver.CreateSolver("GLOP")
    value_scale = max(1.0, max(abs(float(column.value)) for column in columns))
    cost_scale = [max(1.0, *(abs(float(column.cost[k])) for column in columns)) for k in range(len(limits))]
    infinity = solver.infinity()
    one = solver.Constraint(1.0, 1.0)
    rows = [solver.Constraint(-infinity, float(limit) / scale) for limit, scale in zip(limits, cost_scale, strict=True)]
    objective = solver.Objective()
    objective.SetMaximization()
    for row in rows:
        overrun = solver.NumVar(0.0, infinity, "")
        row.SetCoefficient(overrun, -1.0)
        objective.SetCoefficient(overrun, -OVERRUN_PRICE)
    for column in columns:
        share = solver.NumVar(0.0, infinity, "")
        one.SetCoefficient(share, 1.0)
        objective.SetCoefficient(share, float(column.value) / value_scale)
        for row, cost, scale in zip(rows, column.cost, cost_scale, strict=True):
            row.SetCoefficient(share, float(cost) / scale)
    if solver.Solve() != pywraplp.Solver.OPTIMAL:
        raise ArithmeticError("the master problem did not solve")
    duals = np.array([max(0.0, row.dual_value()) for row in rows])
    return duals * value_scale / np.array(cost_scale), objective.Value() * value_scale
