"""Gradual jobs from their first step to the report: trained, measured and exported for real."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pruning.storage import differing, load_compact
from tests.toy_job import toy_job, write_inputs

STEPS = ("score", "gradual", "plan", "reconstruct", "finetune", "export", "report")


@pytest.mark.parametrize("patterns", ["auto", "only"])
def test_a_gradual_job_keeps_its_budget_and_reports_what_the_steps_cost(tmp_path: Path, patterns: str) -> None:
    torch.set_num_threads(1)
    write_inputs(tmp_path)
    job = toy_job(
        tmp_path,
        patterns=patterns,
        pattern_choices=["32x1@1/2", "32x1@1/4"],
        schedule={"mode": "gradual", "steps": 3, "batches": 4},
    )
    job.run("prepare")
    job.price()
    job.run(*STEPS)
    results = job.spec["results"]
    assert results["score"]["gradual"] and [row["step"] for row in results["gradual"]["history"]] == [1, 2]
    assert results["export"]["outcome"] == "budget_met"
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert ("channels_only" in plan["plans"]) == (patterns == "auto")
    chosen = plan["plans"]["main"]["chosen"]
    before = load_file(tmp_path / "gradual.safetensors")
    for group, units in chosen["keep"].items():
        assert set(units) <= set(before[f"keep/{group}"].tolist()) and chosen["widths"][group] == len(units)
    masks = load_file(tmp_path / "masks.safetensors")
    weights = load_file(tmp_path / "model.safetensors")
    for key, mask in masks.items():
        if results["reconstruct"]["kept"] == "main" and key.startswith("main/"):
            assert not weights[f"{key.removeprefix('main/')}.weight"][~mask].any()
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["slim"]["p50_ms"] <= report["budget_ms"] and report["slim"]["accuracy"] > 0.6
    assert [row["step"] for row in report["schedule"]] == [1, 2]
    assert "Steps to the plan" in (tmp_path / "report.html").read_text()
    assert bool(report["patterns"]) == bool(report["storage"]) == (tmp_path / "model.compact.safetensors").exists()
    if report["patterns"]:
        assert differing(weights, load_compact(tmp_path / "model.compact.safetensors")) == ()
        assert report["storage"]["compact_bytes"] < report["storage"]["dense_bytes"]
    assert 0 < report["modelled"]["macs_share"] < 1 and len(report["modelled"]["cores"]) == 6
    carried = load_file(tmp_path / "carried.safetensors")
    assert all(np.isfinite(value.numpy()).all() for value in carried.values())
