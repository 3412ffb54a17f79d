"""Solve the knapsack, build what it says, measure it, correct the table, again; the same for baselines and the frontier."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from lut.pattern import Pattern
from lut.table import LatencyTable
from pruning.export import num_macs, num_parameters
from pruning.groups import coupling_groups
from pruning.lower.rewrite import lower
from pruning.masked import Masks
from pruning.operators import operators
from pruning.patterns.tables import maskable
from pruning.search import Attempt, Search
from pruning.stages import removable_stages
from workers.context import StepContext
from workers.steps.conditions import conditions
from workers.steps.frontier import frontier
from workers.steps.loading import dense_network
from workers.steps.planned import MAIN
from workers.steps.targets import dense_onnx, targets
from workers.steps.workbench import Gauge, Saliency, Workbench, gauge, limit_id, predicted_ms


@dataclass(frozen=True, kw_only=True)
class How:
    """How one plan is found."""

    solver: str
    saliency: str
    patterns: bool = True
    """Whether patterns are on offer, where the job has any."""


FRONTIER_SHARE = 0.3
"""Share of the step's progress that the frontier takes, where there is one."""


def run(context: StepContext) -> dict[str, Any]:
    """Return whether the budgets can be met and by which plan; leave `plan.json`."""
    job = context.spec["job"]
    bench = workbench(context)
    saliency = load_saliency(context.path("saliency.npz"))
    how = {MAIN: How(solver=job["solver"], saliency=job["saliency"])}
    if job["baselines"]:
        how |= baselines(job)
    found, bench = searches(context, bench, how, saliency)
    main = found[MAIN]
    least = bench.least(main.corrections)
    if main.chosen is None:
        least[limit_id(0)] = main.min_achievable_ms
    plans: dict[str, Any] = {}
    masks: dict[str, Tensor] = {}
    for name, one in found.items():
        plans[name], own = described(bench, saliency[how[name].saliency], how[name].solver, one)
        masks |= {f"{name}/{module}": mask for module, mask in own.items()}
    save_file(masks, context.path("masks.safetensors"))
    content = {
        "schema_version": 1,
        "feasible": main.chosen is not None,
        "budget_ms": bench.gauges[0].budget_ms,
        "min_achievable_ms": least[limit_id(0)],
        "floor": bench.floor,
        "step": bench.table.step,
        "saliency": job["saliency"],
        "budgets": budgets(bench, main, least),
        "plans": plans,
        "frontier": frontier(context, bench, saliency[job["saliency"]], main.corrections, least[limit_id(0)]),
        "groups": {
            g.id: {"units": g.units, "frozen": g.frozen, "offered": list(bench.choices.get(g.id, ()))}
            for g in bench.groups
        },
    }
    context.path("plan.json").write_text(json.dumps(content, allow_nan=False))
    summary: dict[str, Any] = {"min_achievable_ms": least[limit_id(0)]}
    if main.chosen is None:
        return {"feasible": False, "outcome": "infeasible", "summary": summary}
    return {"feasible": True, "summary": summary | {"gap": main.chosen.plan.gap, "planned_ms": main.chosen.measured_ms}}


def baselines(job: Mapping[str, Any]) -> dict[str, How]:
    """Return how the plans are found that the job's own is compared with."""
    found = {
        "random_saliency": How(solver="secateur", saliency="random"),
        "uniform_widths": How(solver="uniform", saliency=job["saliency"], patterns=False),
    }
    if job["patterns"] != "none":
        found["channels_only"] = How(solver="secateur", saliency=job["saliency"], patterns=False)
    return found


def workbench(context: StepContext) -> Workbench:
    """Return everything to plan with, from what the steps before left. Raises StepProblem for a condition on no layer."""
    job, dense = context.spec["job"], dense_network(context)
    groups = coupling_groups(dense)
    costs = operators(dense, groups)
    layers, widths = conditions(costs, groups, job)
    gauges: list[Gauge] = []
    for target, measured in zip(targets(context), context.spec["results"]["prepare"]["devices"], strict=True):
        table = LatencyTable.load(context.path(target.table_file))
        onnx_file = dense_onnx(context, dense, target)
        gauges.append(gauge(target, table, onnx_file, measured, predicted_ms(costs, groups, table)))
    return Workbench(
        dense=dense,
        groups=groups,
        costs=costs,
        stages=removable_stages(dense, groups, costs) if job["remove_stages"] and job["patterns"] != "only" else (),
        gauges=tuple(gauges),
        folder=context.workdir,
        max_weight_bytes=job["max_weight_bytes"],
        min_widths=widths,
        keep_dense=layers,
        modules=maskable(dense, costs) if job["patterns"] != "none" else {},
        patterns=[Pattern.parse(name) for name in job["pattern_choices"]] if job["patterns"] != "none" else (),
        widths=job["patterns"] != "only",
    )


def searches(
    context: StepContext,
    bench: Workbench,
    how: Mapping[str, How],
    saliency: Mapping[str, Saliency],
) -> tuple[dict[str, Search], Workbench]:
    """Return a search for every one of `how`, the job's own first, and the workbench whose floor met the budget.

    Without a plan of its own the job is infeasible, and no baseline is searched for.
    """
    found: dict[str, Search] = {}
    for done, (name, one) in enumerate(how.items()):
        context.progress((1 - FRONTIER_SHARE) * done / len(how))
        plan = partial(
            Workbench.search,
            saliency=saliency[one.saliency],
            solver=one.solver,
            seed=context.seed,
            on_attempt=partial(say, context, name),
            thorough=name == MAIN,
        )
        if name == MAIN or found[MAIN].chosen:
            found[name] = plan(bench if one.patterns else replace(bench, patterns=(), widths=True))
        if name == MAIN and found[MAIN].chosen is None:
            bench = replace(bench, floor=0.0)
            found[MAIN] = plan(bench)
    return found, bench


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


def budgets(bench: Workbench, main: Search, least: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return every budget beside the job's own: limit, least achievable, and what the chosen plan takes."""
    chosen = main.chosen
    rows: list[dict[str, Any]] = []
    for index, one in enumerate(bench.gauges[1:], start=1):
        spent = chosen.plan.other_costs[limit_id(index)] / 1e6 if chosen else None
        rows.append(
            {
                "id": limit_id(index),
                "device": one.target.device,
                "profile": asdict(one.target.profile),
                "limit": one.budget_ms,
                "min_achievable": least[limit_id(index)],
                "dense": one.dense_ms,
                "planned": spent,
                "measured": chosen.others_ms[index - 1] if chosen and one.target.here else None,
            }
        )
    if bench.max_weight_bytes is not None:
        rows.append(
            {
                "id": "weight_bytes",
                "limit": bench.max_weight_bytes,
                "min_achievable": least["weight_bytes"],
                "planned": chosen.plan.other_costs["weight_bytes"] if chosen else None,
            }
        )
    return rows


def described(bench: Workbench, saliency: Saliency, solver: str, result: Search) -> tuple[dict[str, Any], Masks]:
    """Return the JSON of a search (its attempts, and the chosen plan with kept units and sizes or None) and the plan's masks."""
    attempts = [
        {
            "predicted_ms": a.predicted_ms,
            "measured_ms": a.measured_ms,
            "p90_ms": a.p90_ms,
            "correction": a.corrections[0],
            "value": a.plan.value,
            "bound": a.plan.bound,
            "gap": a.plan.gap,
            "status": a.plan.status,
            "seconds": a.plan.seconds,
            "chosen": a is result.chosen,
        }
        for a in result.attempts
    ]
    described: dict[str, Any] = {"solver": solver, "attempts": attempts, "chosen": None}
    masks: Masks = {}
    if result.chosen is not None:
        plan = result.chosen.plan
        built = bench.built(saliency, plan)
        masks, network = built.masks, lower(built.network, built.masks)
        described["chosen"] = {
            **asdict(plan),
            "keep": {group: units.tolist() for group, units in built.keep.items()},
            "predicted_ms": result.chosen.predicted_ms,
            "measured_ms": result.chosen.measured_ms,
            "p90_ms": result.chosen.p90_ms,
            "value_share": bench.value_share(saliency, plan),
            "correction": result.chosen.corrections[0],
            "density": {name: float(mask.float().mean()) for name, mask in masks.items()},
            "num_macs": num_macs(network),
            "num_parameters": num_parameters(network),
        }
    return described, masks


def load_saliency(path: Path) -> dict[str, Saliency]:
    """Return saliency by method."""
    units: dict[str, dict[str, np.ndarray]] = {}
    weights: dict[str, dict[str, Tensor]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            kind, method, name = key.split("/", 2)
            if kind == "units":
                units.setdefault(method, {})[name] = arrays[key]
            else:
                weights.setdefault(method, {})[name] = torch.from_numpy(arrays[key])
    return {method: Saliency(units=units[method], weights=weights.get(method, {})) for method in units}
