"""Solve the knapsack, build what it says, measure it, correct the table, again; the same for baselines and the frontier."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from lut.table import LatencyTable
from pruning.export import num_macs, num_parameters, to_safetensors
from pruning.groups import coupling_groups
from pruning.lower.rewrite import lower
from pruning.masked import masked_copy
from pruning.operators import operators
from pruning.patterns.tables import maskable
from pruning.search import Attempt, Search
from pruning.stages import removable_stages
from workers.context import StepContext
from workers.steps import scores
from workers.steps.conditions import conditions, patterns_on_offer
from workers.steps.frontier import frontier
from workers.steps.gauge import Gauge, gauge
from workers.steps.loading import dense_network
from workers.steps.planned import CARRIED, CHANNELS_ONLY, LENIENT, MAIN
from workers.steps.survivors import GRADUAL, RESCORED, Survivors
from workers.steps.targets import dense_program, targets
from workers.steps.workbench import Built, Saliency, Workbench, limit_id, predicted_ms


@dataclass(frozen=True, kw_only=True)
class How:
    """How one plan is found."""

    solver: str
    bench: Workbench
    saliency: Saliency
    thorough: bool = False
    """Whether every candidate is measured twice or more, as a plan wants that may become the job's result."""


FRONTIER_SHARE = 0.3
"""Share of the step's progress that the frontier takes, where there is one."""


def run(context: StepContext) -> dict[str, Any]:
    """Return whether the budgets can be met and by which plan; leave `plan.json`."""
    job = context.spec["job"]
    how = hows(context)
    found, how = searches(context, how)
    main, bench, saliency = found[MAIN], how[MAIN].bench, how[MAIN].saliency
    least = bench.least(main.corrections)
    if main.chosen is None:
        least[limit_id(0)] = main.min_achievable_ms
    plans: dict[str, Any] = {}
    masks: dict[str, Tensor] = {}
    for name, one in found.items():
        plans[name], built = described(how[name], one)
        masks |= {f"{name}/{module}": mask for module, mask in (built.masks if built else {}).items()}
        if name == MAIN and built and bench.survivors:
            to_safetensors(masked_copy(built.network, built.masks), context.path(CARRIED))
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
        "frontier": frontier(context, bench, saliency, main.corrections, least[limit_id(0)]),
        "groups": {
            g.id: {"units": g.units, "frozen": g.frozen, "offered": list(bench.choices.get(g.id, ()))}
            for g in bench.whole or bench.groups
        },
    }
    context.path("plan.json").write_text(json.dumps(content, allow_nan=False))
    summary: dict[str, Any] = {"min_achievable_ms": least[limit_id(0)]}
    if main.chosen is None:
        return {"feasible": False, "outcome": "infeasible", "summary": summary}
    return {"feasible": True, "summary": summary | {"gap": main.chosen.plan.gap, "planned_ms": main.chosen.measured_ms}}


def hows(context: StepContext) -> dict[str, How]:
    """Return how every plan is found, the job's own first: of what survived where the job is gradual, the others in one shot."""
    job, bench = context.spec["job"], workbench(context)
    known = scores.load(context.path("saliency.npz"))
    own, channels = known[job["saliency"]], replace(bench, patterns=(), widths=True)
    how = {MAIN: How(solver=job["solver"], bench=bench, saliency=own, thorough=True)}
    if (left := context.path(GRADUAL)).exists():
        survivors = Survivors.load(left, bench.dense, bench.groups)
        rescored = scores.load(context.path(RESCORED))[job["saliency"]]
        how[MAIN] = replace(how[MAIN], bench=bench.after(survivors), saliency=rescored)
    if job["baselines"]:
        if job["saliency"] != "random":
            how["random_saliency"] = How(solver="secateur", bench=bench, saliency=known["random"])
        how["uniform_widths"] = How(solver="uniform", bench=channels, saliency=own)
    if job["patterns"] == "auto" and how[MAIN].bench is bench:
        for name, weight in LENIENT.items():
            how[name] = replace(how[MAIN], bench=replace(bench, pattern_loss=weight))
    if job["patterns"] == "auto" or (job["patterns"] == "only" and job["baselines"]):
        how[CHANNELS_ONLY] = How(solver="secateur", bench=channels, saliency=own, thorough=job["patterns"] == "auto")
    return how


def workbench(context: StepContext) -> Workbench:
    """Return everything to plan with, from what the steps before left. Raises StepProblem for a condition on no layer."""
    job, dense = context.spec["job"], dense_network(context)
    groups = coupling_groups(dense)
    costs = operators(dense, groups)
    layers, widths = conditions(costs, groups, job)
    gauges: list[Gauge] = []
    for target, measured in zip(targets(context), context.spec["results"]["prepare"]["devices"], strict=True):
        table = LatencyTable.load(context.path(target.table_file))
        program = dense_program(context, dense, target)
        gauges.append(gauge(target, table, program, measured, predicted_ms(costs, groups, table)))
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
        patterns=patterns_on_offer(job),
        widths=job["patterns"] != "only",
    )


def searches(context: StepContext, how: Mapping[str, How]) -> tuple[dict[str, Search], dict[str, How]]:
    """Return a search for every one of `how`, and `how` with the floor that met the budget.

    Without a plan of its own the job is infeasible, and no baseline is searched for.
    """
    found: dict[str, Search] = {}

    def plan(name: str, one: How) -> Search:
        main = found.get(MAIN)
        alike = main and (one.saliency, one.bench.survivors) == (how[MAIN].saliency, how[MAIN].bench.survivors)
        return one.bench.search(
            one.saliency,
            one.solver,
            seed=context.seed,
            thorough=one.thorough,
            start=main.corrections if main else (),
            known=main.attempts if main and alike else (),
            on_attempt=partial(say, context, name),
        )

    for done, name in enumerate(how):
        context.progress((1 - FRONTIER_SHARE) * done / len(how))
        if name == MAIN or found[MAIN].chosen:
            found[name] = plan(name, how[name])
        if name == MAIN and found[MAIN].chosen is None:
            how = {key: replace(one, bench=replace(one.bench, floor=0.0)) for key, one in how.items()}
            found[MAIN] = plan(MAIN, how[MAIN])
    same = {name for name in LENIENT if name in found and _choice(found[name]) == _choice(found[MAIN])}
    return {name: one for name, one in found.items() if name not in same}, dict(how)


def _choice(search: Search) -> tuple[object, ...] | None:
    return search.chosen.plan.choice if search.chosen else None


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


def described(how: How, result: Search) -> tuple[dict[str, Any], Built | None]:
    """Return the JSON of a search (its attempts, and the chosen plan with kept units and sizes or None) and the plan's network."""
    bench, saliency = how.bench, how.saliency
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
    described: dict[str, Any] = {"solver": how.solver, "attempts": attempts, "chosen": None}
    built = None
    if result.chosen is not None:
        plan = result.chosen.plan
        built = bench.built(saliency, plan)
        network = lower(built.network, built.masks)
        keep, removed = built.keep, plan.removed
        if bench.survivors:
            keep, removed = bench.survivors.units(keep), (*bench.survivors.removed, *removed)
        described["chosen"] = {
            **asdict(plan),
            "widths": {group: len(units) for group, units in keep.items()},
            "patterns": bench.patterns_of(plan),
            "removed": removed,
            "keep": {group: units.tolist() for group, units in keep.items()},
            "predicted_ms": result.chosen.predicted_ms,
            "measured_ms": result.chosen.measured_ms,
            "p90_ms": result.chosen.p90_ms,
            "value_share": bench.value_share(saliency, plan),
            "correction": result.chosen.corrections[0],
            "density": {name: float(mask.float().mean()) for name, mask in built.masks.items()},
            "num_macs": num_macs(network),
            "num_parameters": num_parameters(network),
        }
    return described, built
