"""The steps of a gradual job before the last: what went never returns, and a killed one goes on where it was."""

import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pruning.groups import coupling_groups
from pruning.search import Attempt, Search
from tests.toy_job import ToyJob, toy_job, write_inputs
from workers.steps import scores
from workers.steps.loading import dense_network
from workers.steps.plan import described, hows
from workers.steps.planned import MAIN
from workers.steps.survivors import GRADUAL, RESCORED, Survivors

SCHEDULE = {"mode": "gradual", "steps": 4, "batches": 3}
CHOICES = ["32x1@1/2", "32x1@1/4", "16x1@1/4"]
Begin = Callable[..., ToyJob]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("toy")
    write_inputs(folder)
    yield folder
    torch.set_num_threads(threads)


@pytest.fixture
def begin(inputs: Path, tmp_path: Path) -> Begin:
    """Return what begins a job of the given options, up to its scores."""

    def begun(**options: Any) -> ToyJob:
        shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
        job = toy_job(tmp_path, **{"schedule": SCHEDULE, "budget_ratio": 0.4, **options})
        job.run("prepare")
        job.price()
        job.run("score")
        return job

    return begun


def checkpoints(job: ToyJob) -> list[Survivors]:
    """Return what survived each step, by the checkpoints that were taken."""
    dense = dense_network(job.context())
    files = [job.folder / ".outbox" / event["file"] for event in job.events if event["event"] == "checkpoint"]
    return [Survivors.load(file, dense, coupling_groups(dense)) for file in files]


def test_channels_go_step_by_step_and_never_return(begin: Begin) -> None:
    job = begin(solver="halp", saliency="bn_taylor", remove_stages=False)
    result = job.run("gradual")
    found = checkpoints(job)
    assert [row["step"] for row in result["history"]] == [1, 2, 3] and len(found) == 3
    budgets = [row["budget_ms"] for row in result["history"]]
    assert all(row["predicted_ms"] <= budget for row, budget in zip(result["history"], budgets, strict=True))
    assert budgets[1] / budgets[0] == pytest.approx(budgets[2] / budgets[1], rel=1e-4)
    for before, after in pairwise(found):
        assert all(set(after.keep[group]) <= set(units) for group, units in before.keep.items())
    assert sum(map(len, found[-1].keep.values())) < sum(map(len, found[0].keep.values())) < 160
    rescored = scores.load(job.folder / RESCORED)["bn_taylor"]
    assert {group: len(values) for group, values in rescored.units.items() if group in found[-1].keep} == {
        group: len(units) for group, units in found[-1].keep.items()
    }
    # Beside the loss, what a step took: the report shows what the schedule cost.
    assert all(len(row["losses"]) == 3 and row["seconds"] > 0 for row in result["history"])


def test_the_last_step_is_offered_what_survived_and_its_trained_weights(begin: Begin) -> None:
    job = begin()
    job.run("gradual")
    last = checkpoints(job)[-1]
    how = hows(job.context())[MAIN]
    assert {group: widths[-1] for group, widths in how.bench.choices.items()} == {
        group: len(units) for group, units in last.keep.items() if len(units)
    }
    dense = dense_network(job.context()).module.state_dict()
    trained = how.bench.dense.module.state_dict()
    units = last.keep["wide"]
    assert not torch.equal(trained["wide.weight"], dense["wide.weight"][torch.from_numpy(units)])
    problem = how.bench.problem(how.saliency, how.bench.gauges[0].budget_ms)
    built = how.bench.built(how.saliency, how.bench.solver("secateur", how.saliency)(problem))
    kept = last.units(built.keep)
    assert all(set(kept[group]) <= set(units) for group, units in last.keep.items())


def test_a_branch_that_went_stays_away(begin: Begin) -> None:
    job = begin(budget_ratio=0.3, min_widths={"conv1": 64, "stem": 32})
    job.run("gradual")
    last = checkpoints(job)[-1]
    assert last.removed == ("add",) and not len(last.keep["conv1"])
    how = hows(job.context())[MAIN]
    assert not how.bench.stages and "conv1" not in how.bench.choices
    problem = how.bench.problem(how.saliency, how.bench.gauges[0].budget_ms)
    found = Search(
        attempts=(), min_achievable_ms=0.0,
        chosen=Attempt(
            plan=how.bench.solver("secateur", how.saliency)(problem), predicted_ms=1, measured_ms=1, p90_ms=1, corrections=(1.0,)
        ),
    )  # fmt: skip
    chosen = described(how, found)[0]["chosen"]
    assert chosen["removed"] == ("add",) and chosen["widths"]["conv1"] == 0 and chosen["keep"]["conv1"] == []


def test_masks_nest_where_all_channels_stay(begin: Begin) -> None:
    job = begin(patterns="only", pattern_choices=CHOICES, saliency="cass")
    job.run("gradual")
    found = checkpoints(job)
    assert found[0].nested and len(found[-1].masks) > 1
    for before, after in pairwise(found):
        assert all(np.array_equal(units, after.keep[group]) for group, units in before.keep.items())
        for name, mask in before.masks.items():
            assert not bool((after.masks[name] & ~mask).any())
    last = found[-1]
    for name, mask in last.masks.items():
        weight = last.network.module.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor) and not weight[~mask].any()
        assert float(mask.float().mean()) == pytest.approx(
            float(last.patterns[name.replace(".", "_")][-3:] == "1/2") / 4 + 0.25
        )
    how = hows(job.context())[MAIN]
    problem = how.bench.problem(how.saliency, how.bench.gauges[0].budget_ms)
    built = how.bench.built(how.saliency, how.bench.solver("secateur", how.saliency)(problem))
    assert all(not bool((built.masks[name] & ~mask).any()) for name, mask in last.masks.items())


def test_crisp_masks_step_by_step(begin: Begin) -> None:
    job = begin(patterns="only", pattern_choices=CHOICES, saliency="cass", solver="crisp")
    result = job.run("gradual")
    assert [row["num_masked"] for row in result["history"]] == sorted(row["num_masked"] for row in result["history"])
    assert result["history"][-1]["num_masked"] > 0


def test_a_resumed_job_ends_where_an_uninterrupted_one_does(begin: Begin) -> None:
    job = begin()
    job.run("gradual")
    whole = checkpoints(job)
    files = [job.folder / ".outbox" / event["file"] for event in job.events if event["event"] == "checkpoint"]
    shutil.copyfile(files[0], job.folder / GRADUAL)
    job.events.clear()
    job.run("gradual")
    resumed = checkpoints(job)
    assert len(resumed) == 2
    for one, other in zip(whole[1:], resumed, strict=True):
        assert all(np.array_equal(units, other.keep[group]) for group, units in one.keep.items())
        state = other.network.module.state_dict()
        for name, value in one.network.module.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["reconstruct", "none"])
def test_without_training_steps_are_repaired_or_left_as_cut(begin: Begin, mode: str) -> None:
    job = begin(finetune={"mode": mode})
    result = job.run("gradual")
    assert len(result["history"]) == 3 and all("losses" not in row for row in result["history"])
    dense, last = dense_network(job.context()).module, checkpoints(job)[-1]
    units = torch.from_numpy(last.keep["wide"])
    cut = torch.equal(last.network.module.get_submodule("wide").weight, dense.get_submodule("wide").weight[units])  # type: ignore[arg-type,index]
    assert cut == (mode == "none")


def test_where_channels_may_go_masks_are_chosen_anew_from_weights_that_learnt_behind_them(begin: Begin) -> None:
    job = begin(
        patterns="auto", pattern_choices=CHOICES, saliency="cass", min_widths={"stem": 32, "conv1": 64, "wide": 64}
    )
    job.run("gradual")
    last = checkpoints(job)[-1]
    assert last.masks and not last.nested and not last.patterns
    how = hows(job.context())[MAIN]
    assert how.bench.masks is None
    for name, mask in last.masks.items():
        behind = last.behind[name][~mask]
        assert behind.any() and not last.masked.module.state_dict()[f"{name}.weight"][~mask].any()
        assert how.saliency.weights[name][~mask].any(), "they may come back"
