"""Which of two plans a job with patterns goes on with, and that every later step goes on with the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pruning.groups import coupling_groups
from tests.toy_job import ToyJob, toy_job, write_inputs
from workers.steps.loading import dense_network
from workers.steps.planned import FIRST_PLAN, MAIN, chosen_plans, plan_content, plan_masks

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    write_inputs(folder)
    return folder


def planned(folder: Path, density: float, width: int, lenient: float | None = None, **options: Any) -> ToyJob:
    """Return a job with two plans: a random mask of this density on `wide`, and the first `width` units of `wide` alone.

    With `lenient` there is a third: a mask of that density.
    """
    job = toy_job(folder, **{"patterns": "auto", "finetune": {"mode": "none"}, **options})
    job.run("prepare")
    groups = coupling_groups(dense_network(job.context()))
    units = {group.id: list(range(group.units)) for group in groups if not group.frozen}

    def plan(keep: dict[str, list[int]], measured_ms: float) -> dict[str, Any]:
        chosen = {
            "keep": keep,
            "removed": [],
            "gap": 0.0,
            "measured_ms": measured_ms,
            "other_costs": {"latency_ns:1": 7e6},
        }
        return {"solver": "secateur", "attempts": [], "chosen": chosen}

    plans = {MAIN: plan(units, 1.0), "channels_only": plan({**units, "wide": units["wide"][:width]}, 2.0)}
    if lenient is not None:
        plans["patterns_at_half"] = plan(units, 3.0)
    content = {"plans": plans, "budgets": [{"id": "latency_ns:1", "planned": 3.0, "measured": 4.0}]}
    (folder / "plan.json").write_text(json.dumps(content))
    drawn = np.random.default_rng(0).random((64, 32, 3, 3))
    masks = {MAIN: density, **({} if lenient is None else {"patterns_at_half": lenient})}
    save_file(
        {f"{name}/wide": torch.from_numpy(drawn < one) for name, one in masks.items()}, folder / "masks.safetensors"
    )
    return job


def test_the_plan_without_patterns_takes_over_where_it_is_better(inputs: Path) -> None:
    job = planned(inputs, density=0.0, width=64)
    result = job.run("reconstruct")
    assert result["kept"] == "channels_only" and result["summary"]["planned_ms"] == 2.0
    assert list(result["plans"]) == [MAIN, FIRST_PLAN]
    assert result["plans"][MAIN]["accuracy_cut"] > result["plans"][FIRST_PLAN]["accuracy_cut"]
    assert "channels_only" in next(event["text"] for event in job.events if event["event"] == "log")
    context = job.context()
    assert plan_masks(context, MAIN) == {} and list(plan_masks(context, FIRST_PLAN)) == ["wide"]
    assert [plan["measured_ms"] for plan in chosen_plans(context).values()] == [2.0, 1.0]
    assert plan_content(context)["budgets"] == [{"id": "latency_ns:1", "planned": 7.0, "measured": None}]
    job.run("finetune")
    assert load_file(inputs / "model.safetensors")["wide.weight"].any()


def test_the_plan_with_patterns_stays_where_it_is_no_worse(inputs: Path) -> None:
    job = planned(inputs, density=1.0, width=2)
    assert job.run("reconstruct")["kept"] == MAIN
    assert list(plan_masks(job.context(), MAIN)) == ["wide"]
    assert [plan["measured_ms"] for plan in chosen_plans(job.context()).values()] == [1.0, 2.0]


def test_of_several_rivals_the_best_goes_on_with_its_own_masks(inputs: Path) -> None:
    job = planned(inputs, density=0.0, width=2, lenient=0.9)
    result = job.run("reconstruct")
    assert result["kept"] == "patterns_at_half" and result["summary"]["planned_ms"] == 3.0
    assert list(result["plans"]) == [MAIN, FIRST_PLAN, "channels_only"]
    context = job.context()
    assert 0.8 < plan_masks(context, MAIN)["wide"].float().mean() < 1.0
    assert not plan_masks(context, FIRST_PLAN)["wide"].any()


def test_where_masks_were_asked_for_alone_they_stay(inputs: Path) -> None:
    assert planned(inputs, density=0.0, width=64, patterns="only").run("reconstruct")["kept"] == MAIN
