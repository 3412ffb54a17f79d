"""A job that must also keep a budget on an accelerator that exists as a model: its table is computed, its word is enough."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from lut.analytic import DEVICES, RUNTIME, analytic_profile
from lut.table import LatencyTable
from tests.toy_job import toy_job, write_inputs

STEPS = ("profile", "score", "plan", "reconstruct", "finetune", "export", "report")


@pytest.mark.parametrize(
    ("core", "masks", "rival"),
    [("analytic/2-4", "2:4", "32x1@1/2"), ("analytic/crisp", "2:4+4x4@3/4", "32x1@1/4")],
    ids=["2:4", "CRISP's hybrid"],
)
def test_masks_that_pay_on_a_modelled_core_alone_cost_as_if_dense_where_it_was_measured(
    tmp_path: Path, core: str, masks: str, rival: str
) -> None:
    torch.set_num_threads(1)
    write_inputs(tmp_path)
    job = toy_job(
        tmp_path,
        patterns="only",
        pattern_choices=[masks, rival],
        budget_ratio=None,
        budget_ms=1000.0,
        also=[{"device": core, "batch": 4, "budget_ratio": 0.9}],
        finetune={"mode": "reconstruct"},
    )
    profile = analytic_profile(DEVICES[core], batch=4)
    job.spec["also"] = [{"profile": asdict(profile), "here": False}]
    job.run("prepare")
    job.price()
    measured = LatencyTable.load(tmp_path / "table.json")
    entries = {key: points for key, points in measured.entries.items() if key.pattern != masks}
    replace(measured, entries=entries).save(tmp_path / "known_table.json")
    job.run(*STEPS)

    table = LatencyTable.load(tmp_path / "table_1.json")
    assert table.profile == profile and table.profile.runtime == RUNTIME
    assert {key.pattern for key in table.entries} == {"", masks, rival}
    # What is computed is no measurement: the registry is handed the other table alone.
    assert [lut["file"] for lut in job.spec["results"]["profile"]["luts"]] == ["table.json"]

    report = json.loads((tmp_path / "report.json").read_text())
    (limit,) = report["limits"]
    assert limit["name"] == f"{core}, a model, batch 4" and limit["measured"] is None
    assert limit["planned"] <= limit["limit"] == 0.9 * limit["dense"]
    assert report["outcome"] == "budget_met"
    assert {row["pattern"] for row in report["patterns"]} == {masks}
    assert report["slim"]["num_macs"] == report["dense"]["num_macs"]
    assert {row["pattern"] for row in report["storage"]["layers"]} == {masks}
    (dense, slim) = next(
        (c["dense_us"], c["slim_us"]) for c in report["modelled"]["cores"] if c["name"] == DEVICES[core].name
    )
    assert 0 < slim < dense
