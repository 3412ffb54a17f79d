"""A saliency that is measured on classes the job does not name, and what it wants of a data set."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pruning.groups import coupling_groups
from tests.toy_job import CLASSES, ToyJob, toy_job, write_inputs
from workers.context import StepProblem
from workers.steps import scores
from workers.steps.loading import dense_network, full_network
from workers.steps.others import other_images, other_rows
from workers.steps.survivors import whole

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    write_inputs(folder)
    return folder


def asked(folder: Path, **options: Any) -> ToyJob:
    return toy_job(folder, saliency="other_classes", finetune={"mode": "none"}, **options)


def rows(job: ToyJob) -> dict[str, int]:
    return other_rows(job.spec, job.spec["job"]["classes"], full_network(job.context()))


def test_the_rows_of_the_others_come_from_the_map_the_names_or_the_order(inputs: Path) -> None:
    job = asked(inputs)
    assert rows(job) == {"grey": 2, "yellow": 4}
    job.spec["dataset"]["class_map"] = {"blue": 0, "green": 1, "red": 2, "yellow": 3}
    assert rows(job) == {"yellow": 3}
    job.spec["dataset"]["class_map"] = None
    job.spec["model"]["class_names"] = ["red", "green", "blue", "Grey", "other"]
    assert rows(job) == {"grey": 3}


def test_another_saliency_wants_no_other_class(inputs: Path) -> None:
    assert rows(toy_job(inputs, classes=CLASSES, saliency="cass")) == {}


@pytest.mark.parametrize("case", ["all classes", "no row known"])
def test_a_job_without_other_classes_is_refused_before_and_in_the_preflight(inputs: Path, case: str) -> None:
    job = asked(inputs, classes=CLASSES if case == "all classes" else ("blue", "red"))
    if case == "no row known":
        job.spec["dataset"]["class_map"] = {"blue": 0, "red": 3}
    with pytest.raises(StepProblem, match="name fewer classes") as refused:
        job.run("prepare")
    assert refused.value.code == "no_other_classes"
    found = job.run("preflight")
    assert not found["ok"] and "no_other_classes" in {blocker["code"] for blocker in found["blockers"]}


@pytest.mark.parametrize("saliency", ["squared_taylor", "bn_taylor", "cass", "other_classes", "magnitude", "random"])
def test_every_saliency_scores_units_and_weights(inputs: Path, saliency: str) -> None:
    job = toy_job(inputs, saliency=saliency, patterns="auto")
    job.run("prepare", "score")
    found = scores.load(inputs / "saliency.npz")
    assert set(found) == {saliency, "random"}
    one = found[saliency]
    assert {name: len(values) for name, values in one.units.items() if name in ("stem", "conv1", "wide")} == {
        "stem": 32, "conv1": 64, "wide": 64
    }  # fmt: skip
    assert all(np.isfinite(values).all() and (values >= 0).all() for values in one.units.values())
    assert one.weights["wide"].shape == (64, 32, 3, 3)


def test_after_some_steps_the_whole_head_sits_on_what_survived(inputs: Path) -> None:
    job = asked(inputs)
    job.run("prepare")
    dense = dense_network(job.context())
    start = whole(dense, 0.25)
    with torch.no_grad():
        dense.module.get_submodule("stem").weight.mul_(2)  # type: ignore[operator,union-attr]
    others = other_images(job.context(), 8, 4, start)
    assert others.network.num_outputs == len(CLASSES) and dense.num_outputs == 3
    state = others.network.module.state_dict()
    assert torch.equal(state["stem.weight"], dense.module.state_dict()["stem.weight"])
    assert {group.id for group in coupling_groups(dense)} == {group.id for group in coupling_groups(others.network)}
    assert {int(label) for _, labels in others.batches for label in labels} <= {2, 4}
