"""Solvers of the latency-saliency knapsack: `solve` is the default, `frontier` solves a row of budgets, `SOLVERS` names them all."""

from types import MappingProxyType
from typing import Protocol

from pruning.problem import Plan, Problem, validate
from pruning.solve.answer import Run
from pruning.solve.baselines import magnitude, random, uniform
from pruning.solve.build import build_graph
from pruning.solve.close import solve_split
from pruning.solve.frontier import frontier
from pruning.solve.halp import halp
from pruning.solve.order import DoesNotSplitError
from pruning.solve.price import Pricer
from pruning.solve.whole import cp_sat, solve_whole

__all__ = ["SOLVERS", "Solver", "frontier", "solve"]


def solve(problem: Problem, *, seed: int = 0, tolerance: float = 1e-3, time_limit_s: float = 30.0) -> Plan:
    """Return a plan of proven gap <= `tolerance`, or the best plan and bound the time allows.

    The plan obeys `pruning.check.check`. Same problem, seed and tolerance give the same plan unless the time runs out.
    Raises ValueError for a table, group, stage or budget that does not fit the others.
    """
    validate(problem)
    run = Run(solver="secateur", seed=seed, tolerance=tolerance, time_limit_s=time_limit_s)
    graph = build_graph(problem)
    try:
        pricer = Pricer(graph)
    except DoesNotSplitError:
        return solve_whole(problem, graph, run)
    return solve_split(graph, pricer, run)


class Solver(Protocol):
    """A named solver: returns a plan that the checker accepts, or one that says `infeasible` or `unknown`."""

    def __call__(
        self, problem: Problem, *, seed: int = 0, tolerance: float = 1e-3, time_limit_s: float = 30.0
    ) -> Plan: ...


SOLVERS: MappingProxyType[str, Solver] = MappingProxyType(
    {"secateur": solve, "halp": halp, "uniform": uniform, "random": random, "magnitude": magnitude, "cp_sat": cp_sat}
)
