"""The main job over HTTP, with the real service: real processes, real images, real training, real measurements."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from safetensors.torch import load_file

from lut.measure.memory import VARIABLE, environment, in_huge_pages
from secateur import Client, Job
from secateur.schemas import Dataset, JobStatus, Model
from tests.e2e.conftest import Server

PATIENCE_S = 240.0


def submit(client: Client, inputs: tuple[Model, Dataset], **more: Any) -> Job:
    model, dataset = inputs
    spec: dict[str, Any] = {"budget_ratio": 0.6, "finetune": {"max_epochs": 2, "max_minutes": 1}, "baselines": False}
    classes = more.pop("classes", ["3", "5", "8"])
    if "budget_ms" in more:
        del spec["budget_ratio"]
    return client.submit(model_id=model.id, dataset_id=dataset.id, classes=classes, **(spec | more))


def test_a_job_ends_with_a_network_that_was_measured_to_keep_its_budget(
    client: Client, inputs: tuple[Model, Dataset], folder: Path
) -> None:
    job = submit(client, inputs, baselines=True)
    state = job.wait(timeout_s=PATIENCE_S)
    assert state.outcome == "budget_met"
    files = {path.name: path for path in job.download(folder / "result")}
    assert set(files) == {
        "model.onnx", "model.safetensors", "plan.json", "report.json", "report.html", "table.json"
    }  # fmt: skip
    report = json.loads(files["report.json"].read_text())
    assert report["slim"]["p50_ms"] <= report["budget_ms"] < report["dense"]["p50_ms"]
    assert report["slim"]["num_macs"] < report["dense"]["num_macs"]
    assert report["slim"]["accuracy"] > 0.8
    assert len(report["slim"]["per_class"]) == len(report["dense"]["per_class"]) == 3
    assert {row["name"] for row in report["baselines"]} == {"main", "random saliency", "uniform widths"}
    assert report["solver"]["value"] <= report["solver"]["bound"]
    asks = environment(os.environ)
    assert (asks[VARIABLE] in report["device"].get("memory", "")) == in_huge_pages(asks), "how to run it alike"
    session = onnxruntime.InferenceSession(str(files["model.onnx"]), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: np.zeros((1, 3, 32, 32), np.float32)})
    assert logits.shape == (1, 3)
    page = files["report.html"].read_text()
    assert "<script" not in page and page.count("data:image/png;base64") == 2


def test_masks_alone_step_by_step_keep_the_budget_and_every_channel(
    client: Client, inputs: tuple[Model, Dataset], folder: Path
) -> None:
    job = submit(
        client,
        inputs,
        patterns="only",
        pattern_choices=["32x1@1/4", "16x1@1/4"],
        schedule={"mode": "gradual", "steps": 3, "batches": 5},
        finetune={"max_epochs": 1},
    )
    assert job.wait(timeout_s=PATIENCE_S).outcome == "budget_met"
    steps = [event.data for event in job.events() if event.kind == "metric" and "num_units" in event.data]
    assert [row["step"] for row in steps] == [1, 2]
    assert steps[0]["budget_ms"] > steps[1]["budget_ms"] >= steps[1]["predicted_ms"]
    job.download(folder / "masks")
    plan = json.loads((folder / "masks" / "plan.json").read_text())
    chosen = plan["plans"]["main"]["chosen"]
    assert all(chosen["widths"][name] == group["units"] for name, group in plan["groups"].items())
    assert chosen["density"] and all(0.2 < density < 0.3 for density in chosen["density"].values())
    weights = load_file(folder / "masks" / "model.safetensors")
    for layer, density in chosen["density"].items():
        assert float((weights[f"{layer}.weight"] != 0).float().mean()) <= density + 1e-6
    assert "Gather" in {node.op_type for node in onnx.load(folder / "masks" / "model.onnx").graph.node}


def test_a_condition_on_a_layer_there_is_not_is_named(client: Client, inputs: tuple[Model, Dataset]) -> None:
    state = submit(client, inputs, keep_dense=["no.such.layer"], min_widths={"layer1.0.conv1": 99}).wait(
        timeout_s=PATIENCE_S, check=False
    )
    assert state.failure is not None and state.failure.code == "bad_condition"
    assert [error.pointer for error in state.failure.errors] == ["/keep_dense/0", "/min_widths/layer1.0.conv1"]


def test_an_impossible_budget_is_called_before_any_training(client: Client, inputs: tuple[Model, Dataset]) -> None:
    job = submit(client, inputs, budget_ms=1e-4)
    state = job.wait(timeout_s=PATIENCE_S)
    assert (state.status, state.outcome) == (JobStatus.SUCCEEDED, "infeasible")
    assert state.summary is not None and state.summary["min_achievable_ms"] > 1e-4
    phases = [event.data["phase"] for event in job.events() if event.kind == "phase"]
    assert "solving" in phases and "finetuning" not in phases
    assert "report.html" in {artifact.name for artifact in job.artifacts()}


def test_a_worker_killed_while_it_fine_tunes_finishes_the_same_job_once_and_measures_no_entry_again(
    server: Server, inputs: tuple[Model, Dataset]
) -> None:
    process, client = server
    tables = list(client.luts())
    assert {table.profile["huge_pages"] for table in tables} == {in_huge_pages(environment(os.environ))}
    job = submit(client, inputs, finetune={"max_epochs": 6, "max_minutes": 2}, solver="halp", saliency="bn_taylor")
    eventually(lambda: [e for e in history(client, job) if e.get("epoch", 0) >= 1], "the first epoch")
    (worker,) = children(process.pid, "workers")
    os.kill(worker, signal.SIGKILL)
    state = job.wait(timeout_s=PATIENCE_S)
    assert state.outcome == "budget_met"
    assert state.state.attempt == 2
    assert state.summary is not None and state.summary["num_entries_measured"] == 0
    assert len(list(client.luts())) == len(tables)
    events = list(job.events())
    ends = [event for event in events if event.kind == "status" and event.data.get("status") == "succeeded"]
    phases = [event.data["phase"] for event in events if event.kind == "phase"]
    assert len(ends) == 1
    assert phases.count("profiling") == 1 and phases.count("scoring") == 1
    epochs = [event.data["epoch"] for event in events if "epoch" in event.data]
    assert epochs == sorted(epochs) and epochs.count(1) == 1, "finished epochs are not trained again"


def test_the_preflight_knows_the_minimum_once_there_is_a_table(client: Client, inputs: tuple[Model, Dataset]) -> None:
    model, dataset = inputs
    asked = {"model_id": model.id, "dataset_id": dataset.id, "classes": ["1", 7]}
    fine = client.validate(budget_ratio=0.5, **asked)
    assert fine.ok and fine.num_coupling_groups > 9 and fine.prunable_latency_share > 0.9
    assert fine.dense_ms is not None and fine.min_achievable_ms is not None
    short = client.validate(budget_ms=fine.min_achievable_ms / 2, **asked)
    assert not short.ok
    assert [blocker.code for blocker in short.blockers if blocker.severity == "error"] == ["budget_infeasible"]


def history(client: Client, job: Job) -> list[dict[str, Any]]:
    """What the job has said so far, without waiting for more."""
    response = client._transport.request("GET", f"/v1/prune-jobs/{job.id}/events", params={"after": 0}, safe=True)
    return [item["data"] for item in response.json()["items"]]


def eventually(ask: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not ask():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)


def children(pid: int, module: str) -> list[int]:
    """Ids of the child processes of `pid` that run `python -m module`."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            if module.encode() in words:
                found.append(int(child))
    return found
