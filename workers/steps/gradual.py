"""All steps of a gradual job but the last: solve at the step's budget, cut, train a little, score again.

The last step is `plan`, which offers only what survived these.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pruning.check import Totals, check, evaluate
from pruning.data import Dataset
from pruning.distill import FinetuneOptions
from pruning.gradual import scheduled, train_interval
from pruning.masked import masked_copy
from pruning.network import Keep, Network
from pruning.patterns.reorder import reorder
from pruning.problem import Plan, Problem
from pruning.reconstruct import NUM_IMAGES, reconstruct
from pruning.slim import slim
from workers.context import StepContext, jsonable
from workers.steps import scores
from workers.steps.loading import job_images
from workers.steps.plan import workbench
from workers.steps.survivors import GRADUAL, RESCORED, Survivors, whole
from workers.steps.workbench import MARGIN, Built, Saliency, Workbench


def run(context: StepContext) -> dict[str, Any]:
    """Return every step's budget, plan and loss; leave what survived and its saliency. Resumable after every step."""
    bench = workbench(context)
    course = Course(context=context, bench=bench, data=job_images(context, bench.dense))
    path, num_steps = context.path(GRADUAL), context.spec["job"]["schedule"]["steps"]
    saliency = scores.load(context.path("saliency.npz"))[course.method]
    dense = course.dense_costs(saliency)
    now = Survivors.load(path, bench.dense, bench.groups) if path.exists() else course.start(saliency)
    for step in range(len(now.history) + 1, num_steps):
        context.progress((step - 1) / num_steps)
        began = time.monotonic()
        if step > 1 or now.nested:
            saliency = course.rescored(now)
        after = course.advanced(now, saliency, dense, step, began)
        if after is None:
            context.log(f"Step {step} of {num_steps}: no width on offer keeps its budget; the last step decides.")
            break
        now = after
        now.save(path)
        context.checkpoint(path, **now.history[-1])
    now.save(path)
    scores.save(context.path(RESCORED), {course.method: course.rescored(now)})
    return {"num_steps": num_steps, "history": list(now.history), **now.settled}


@dataclass(frozen=True, kw_only=True)
class Course:
    """What all steps share."""

    context: StepContext
    bench: Workbench
    """Of the dense network."""
    data: Dataset

    @property
    def job(self) -> Mapping[str, Any]:
        """The job as submitted."""
        job: dict[str, Any] = self.context.spec["job"]
        return job

    @property
    def method(self) -> str:
        """Name of the saliency."""
        return str(self.job["saliency"])

    def problem(self, bench: Workbench, saliency: Saliency) -> Problem:
        """Return what is solved, with the budgets of the last step."""
        return bench.problem(saliency, bench.gauges[0].budget_ms, margin=MARGIN)

    def dense_costs(self, saliency: Saliency) -> Totals:
        """Return what the dense network costs by the tables: where the schedule begins."""
        problem = self.problem(self.bench, saliency)
        return evaluate(problem, {group.id: group.widths[-1] for group in problem.groups})

    def start(self, saliency: Saliency) -> Survivors:
        """Return the dense network; where all channels stay, in the order that suits block-rows, for masks that nest need one order."""
        bench = self.bench
        start = whole(bench.dense, bench.floor)
        if bench.widths:
            return start
        tiles = next((one for one in bench.patterns if one.tile_out), bench.patterns[0])
        patterns = dict.fromkeys(bench.modules.values(), tiles)
        order = reorder(bench.dense, bench.groups, saliency.weights, patterns)
        network = slim(bench.dense, bench.groups, order)
        return replace(start, network=network, keep={**start.keep, **order}, nested=True)

    def rescored(self, now: Survivors) -> Saliency:
        """Return the saliency of what survived; a weight outside masks that nest has none."""
        self.context.phase("scoring")
        found = scores.measured(self.context, self.data, now.masked, (self.method,), survivors=now)
        saliency = scores.saliency_of(found, self.method)
        within = now.masks if now.nested else {}
        masked = {name: saliency.weights[name].masked_fill(~mask, 0) for name, mask in within.items()}
        return replace(saliency, weights={**saliency.weights, **masked})

    def advanced(self, now: Survivors, saliency: Saliency, dense: Totals, step: int, began: float) -> Survivors | None:
        """Return what survives a step that began at `began`, trained; None when nothing on offer keeps its budgets."""
        self.context.phase("solving")
        bench, problem, plan = self.solved(now, saliency, dense, step)
        if not plan.found:
            return None
        built = bench.built(saliency, plan)
        keep = now.units(built.keep)
        self.context.phase("finetuning")
        network, settled, figures = self.recovered(built, keep, now.settled, step)
        row = {
            "step": step,
            "budget_ms": problem.budget_ns / 1e6,
            "predicted_ms": plan.latency_ns / 1e6,
            "value": plan.value,
            "value_share": bench.value_share(saliency, plan),
            "num_units": sum(len(units) for units in keep.values()),
            "num_masked": len(built.masks),
            **figures,
            "seconds": time.monotonic() - began,
        }
        return Survivors(
            network=masked_copy(network, built.masks) if now.nested else network,
            keep=keep,
            removed=(*now.removed, *plan.removed),
            masks=built.masks,
            nested=now.nested,
            patterns=bench.patterns_of(plan) if now.nested else {},
            floor=bench.floor,
            settled=settled,
            history=(*now.history, jsonable(row)),
        )

    def solved(self, now: Survivors, saliency: Saliency, dense: Totals, step: int) -> tuple[Workbench, Problem, Plan]:
        """Return a step's plan by the tables' word, its problem, and the workbench whose floor it keeps."""
        bench = self.bench.after(now)
        for offer in (bench, replace(bench, floor=0.0)):
            problem = scheduled(self.problem(offer, saliency), dense, step, self.job["schedule"]["steps"])
            plan = offer.solver(self.job["solver"], saliency)(problem, seed=self.context.seed)
            if plan.found:
                break
        check(problem, plan)
        return offer, problem, plan

    def recovered(
        self, built: Built, keep: Keep, settled: Mapping[str, Any], step: int
    ) -> tuple[Network, Mapping[str, Any], dict[str, Any]]:
        """Return a cut network after what the job's training mode does between steps, what that settled, and its figures.

        `full` trains, straight through the masks; `reconstruct` repairs by least squares; `none` leaves the network as cut.
        """
        training, num_batches = self.job["finetune"], self.job["schedule"]["batches"]
        dense, data, seed = self.bench.dense, self.data, self.context.seed
        if training["mode"] == "reconstruct":
            images, _ = next(data.train.take(NUM_IMAGES, seed).batches(NUM_IMAGES))
            repaired = reconstruct(dense, built.network, self.bench.groups, keep, images, masks=built.masks, seed=seed)
            return repaired.network, settled, {}
        if training["mode"] == "none" or not num_batches:
            return built.network, settled, {}
        found = {"learning_rates": (settled["learning_rate"],), "precision": settled["precision"]} if settled else {}
        options = FinetuneOptions(
            max_minutes=training["max_minutes"],
            batch_size=training["batch_size"],
            distillation=training["distillation"],
            range_steps=num_batches,
            flip=data.flip,
            mask_mode="ste",
            seed=seed,
            **found,
        )
        done = train_interval(
            built.network, dense, data.train, data.selection, options, built.masks, num_batches=num_batches, step=step
        )
        settled = {"learning_rate": done.learning_rate, "precision": done.precision}
        return done.network, settled, {"losses": done.losses, "loss": done.losses[-1]}
