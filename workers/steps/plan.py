"""Solve the knapsack, build what it says, measure it, correct the table, again; and the same for the baselines."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lut.calibrate import fit
from lut.measure.onnxruntime import measure_models
from lut.profile import DeviceProfile
from lut.table import LatencyTable
from pruning.export import num_macs, num_parameters, to_onnx
from pruning.groups import coupling_groups
from pruning.network import CouplingGroup, Network, Operator
from pruning.operators import operators
from pruning.problem import Plan, Problem, Stage
from pruning.search import Attempt, Search, search
from pruning.solve import SOLVERS, solve
from pruning.stages import build, removable_stages
from pruning.tables import best_units, build_problem, group_values, predicted_us, width_choices
from workers.context import StepContext
from workers.steps.loading import dense_network, profile
from workers.steps.planned import MAIN

MARGIN = 0.03
"""Share of the budget kept free, so that the verdict at the end does not hang on a coin's toss of noise."""
BASELINE_ATTEMPTS = 4
FLOOR = 0.25
"""No coupling group is cut below this share, unless the budget cannot be met otherwise (`bench/RESULTS.md`, floor)."""
BASELINES = {"random_saliency": ("secateur", "random"), "uniform_widths": ("uniform", "")}
"""Solver and saliency of each baseline; empty means the job's own saliency."""


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """The dense network, its tables and the device: everything a plan is solved and measured with."""

    dense: Network
    groups: tuple[CouplingGroup, ...]
    costs: tuple[Operator, ...]
    stages: tuple[Stage, ...]
    table: LatencyTable
    device: DeviceProfile
    dense_onnx: Path
    dense_ms: float
    folder: Path
    floor: float = FLOOR
    """Least share of a coupling group that is offered."""

    @property
    def choices(self) -> dict[str, tuple[int, ...]]:
        """Offered widths by group."""
        return width_choices(self.groups, self.table, self.floor)

    def problem(self, saliency: Mapping[str, np.ndarray], budget_ms: float, correction: float) -> Problem:
        """Return the knapsack at a correction of the table."""
        return build_problem(
            self.costs,
            self.choices,
            group_values(saliency, self.choices),
            self.table,
            budget_ns=math.floor(budget_ms * 1e6),
            correction=correction,
            stages=self.stages,
        )

    def network(self, saliency: Mapping[str, np.ndarray], plan: Plan) -> Network:
        """Return the slimmed network a plan describes."""
        return build(self.dense, self.groups, best_units(saliency, plan.widths), plan.removed)

    def measure(self, saliency: Mapping[str, np.ndarray], times: int, plan: Plan) -> tuple[float, float]:
        """Return (p50, p90) in ms, interleaved with the dense network and put on the scale of its first measurement.

        A machine has moods in which one network suffers more than another: of several measurements the slowest counts.
        """
        path = self.folder / "candidate.onnx"
        to_onnx(self.network(saliency, plan), path, batch=self.device.batch)
        seen = []
        for _ in range(times):
            dense, slim = measure_models([self.dense_onnx, path], self.device)
            drift = self.dense_ms / dense.p50_ms
            seen.append((slim.p50_ms * drift, slim.p90_ms * drift))
        return max(seen)


def run(context: StepContext) -> dict[str, Any]:
    """Return whether the budget can be met and by which plan; leave `plan.json`."""
    prepared, job = context.spec["results"]["prepare"], context.spec["job"]
    dense = dense_network(context)
    groups = coupling_groups(dense)
    costs = operators(dense, groups)
    bench = Workbench(
        dense=dense,
        groups=groups,
        costs=costs,
        stages=removable_stages(dense, groups, costs),
        table=calibrated(LatencyTable.load(context.path("table.json")), groups, costs, prepared["dense"]["p50_ms"]),
        device=profile(context),
        dense_onnx=context.path("dense.onnx"),
        dense_ms=prepared["dense"]["p50_ms"],
        folder=context.workdir,
    )
    budget_ms = float(prepared["budget_ms"])
    saliency = load_saliency(context.path("saliency.npz"))
    how = {MAIN: ("secateur", job["saliency"])}
    if job["baselines"]:
        how |= {name: (solver, method or job["saliency"]) for name, (solver, method) in BASELINES.items()}
    found, bench = searches(context, bench, how, saliency, budget_ms)
    main = found[MAIN]
    least_ms = main.min_achievable_ms if bench.floor == 0 else least(replace(bench, floor=0.0), main)
    offered = bench.choices
    content = {
        "schema_version": 1,
        "feasible": main.chosen is not None,
        "budget_ms": budget_ms,
        "min_achievable_ms": least_ms,
        "floor": bench.floor,
        "step": bench.table.step,
        "saliency": job["saliency"],
        "plans": {name: described(bench, saliency[how[name][1]], how[name][0], one) for name, one in found.items()},
        "groups": {
            g.id: {"units": g.units, "frozen": g.frozen, "offered": list(offered.get(g.id, ()))} for g in groups
        },
    }
    context.path("plan.json").write_text(json.dumps(content, allow_nan=False))
    summary: dict[str, Any] = {"min_achievable_ms": least_ms}
    if main.chosen is None:
        return {"feasible": False, "outcome": "infeasible", "summary": summary}
    return {"feasible": True, "summary": summary | {"gap": main.chosen.plan.gap, "planned_ms": main.chosen.measured_ms}}


def searches(
    context: StepContext,
    bench: Workbench,
    how: Mapping[str, tuple[str, str]],
    saliency: Mapping[str, Mapping[str, np.ndarray]],
    budget_ms: float,
) -> tuple[dict[str, Search], Workbench]:
    """Return a search per (solver, saliency) of `how`, the job's own first, and the workbench whose floor met the budget.

    Without a plan of its own the job is infeasible, and no baseline is searched for.
    """
    found: dict[str, Search] = {}
    for done, (name, (solver, method)) in enumerate(how.items()):
        context.progress(done / len(how))
        plan = partial(
            attempt,
            saliency=saliency[method],
            solver=solver,
            budget_ms=budget_ms,
            seed=context.seed,
            on_attempt=partial(say, context, name),
            thorough=name == MAIN,
        )
        if name == MAIN or found[MAIN].chosen:
            found[name] = plan(bench)
        if name == MAIN and found[MAIN].chosen is None:
            bench = replace(bench, floor=0.0)
            found[MAIN] = plan(bench)
    return found, bench


def least(bench: Workbench, main: Search) -> float:
    """Return the least latency in ms that any width on offer reaches, by the table as the job's own plan corrected it."""
    flat = {group.id: np.zeros(group.units) for group in bench.groups}
    correction = main.chosen.correction if main.chosen else 1.0
    return solve(bench.problem(flat, 0.0, correction)).min_achievable_ns / 1e6


def calibrated(
    table: LatencyTable, groups: Sequence[CouplingGroup], costs: Sequence[Operator], dense_ms: float
) -> LatencyTable:
    """Return the table scaled so that it predicts the dense network as it was measured; plans are corrected one by one."""
    dense = {group.id: group.units for group in groups}
    return table.calibrated(fit([predicted_us(costs, dense, table)], [1e3 * dense_ms]))


def attempt(
    bench: Workbench,
    *,
    saliency: Mapping[str, np.ndarray],
    solver: str,
    budget_ms: float,
    seed: int,
    on_attempt: Callable[[Attempt], None],
    thorough: bool,
) -> Search:
    """Return the search for the best plan of one solver and one saliency that was measured within the budget."""
    target_ms = budget_ms * (1 - MARGIN)
    return search(
        lambda correction: bench.problem(saliency, target_ms, correction),
        partial(SOLVERS[solver], seed=seed),
        partial(bench.measure, saliency, 2 if thorough else 1),
        budget_ms=target_ms,
        on_attempt=on_attempt,
        **({} if thorough else {"max_attempts": BASELINE_ATTEMPTS}),
    )


def say(context: StepContext, name: str, attempt: Attempt) -> None:
    """Tell the user of one attempt."""
    context.phase("measuring")
    context.metric(
        plan=name,
        predicted_ms=attempt.predicted_ms,
        measured_ms=attempt.measured_ms,
        value=attempt.plan.value,
        bound=attempt.plan.bound,
        gap=attempt.plan.gap,
    )


def described(bench: Workbench, saliency: Mapping[str, np.ndarray], solver: str, result: Search) -> dict[str, Any]:
    """Return the JSON of a search: its attempts, and the chosen plan with kept units and sizes; None inside when none fits."""
    attempts = [
        {
            "predicted_ms": a.predicted_ms,
            "measured_ms": a.measured_ms,
            "p90_ms": a.p90_ms,
            "correction": a.correction,
            "value": a.plan.value,
            "bound": a.plan.bound,
            "gap": a.plan.gap,
            "status": a.plan.status,
            "seconds": a.plan.seconds,
        }
        for a in result.attempts
    ]
    described: dict[str, Any] = {"solver": solver, "attempts": attempts, "chosen": None}
    if result.chosen is not None:
        plan = result.chosen.plan
        network = bench.network(saliency, plan)
        keep = best_units(saliency, plan.widths)
        described["chosen"] = {
            **asdict(plan),
            "keep": {group: units.tolist() for group, units in keep.items()},
            "predicted_ms": result.chosen.predicted_ms,
            "measured_ms": result.chosen.measured_ms,
            "correction": result.chosen.correction,
            "num_macs": num_macs(network),
            "num_parameters": num_parameters(network),
        }
    return described


def load_saliency(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Return saliency by method and coupling group."""
    saliency: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            method, group = key.split("/", 1)
            saliency.setdefault(method, {})[group] = arrays[key]
    return saliency
