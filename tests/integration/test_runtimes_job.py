"""A job in another runtime, and in two at once: tables, search and verdict are all that runtime's."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from lut.measure.runtime import available
from lut.profile import DeviceProfile
from lut.table import LatencyTable
from tests.toy_job import toy_job, write_inputs
from workers.device import describe, profile_for
from workers.files import KNOWN_TABLES

STEPS = ("prepare", "profile", "score", "plan", "reconstruct", "finetune", "export", "report")
HERE = {one.name for one in available() if one.version is not None}


@pytest.mark.skipif("openvino" not in HERE, reason="OpenVINO is not installed")
def test_one_network_keeps_its_budgets_in_two_runtimes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_MEASURE_S", "0.2")
    torch.set_num_threads(1)
    write_inputs(tmp_path)
    further = {"budget_ratio": 0.95, "runtime": "openvino"}
    options = {"patterns": "none", "finetune": {"mode": "none"}}
    job = toy_job(tmp_path, runtime="torch_eager", budget_ratio=0.9, also=[further], **options)

    def described(wanted: dict[str, Any]) -> dict[str, Any]:
        profile, absent = profile_for(describe("local"), wanted)
        assert not absent
        return asdict(profile)

    job.spec["profile"] = described(job.spec["job"])
    job.spec["also"] = [{"profile": described(one), "here": True} for one in job.spec["job"]["also"]]
    for profile, name in zip((job.spec["profile"], job.spec["also"][0]["profile"]), KNOWN_TABLES, strict=False):
        # Coarse stairs: few widths to measure.
        LatencyTable(profile=DeviceProfile(**profile), entries={}, step=16).save(tmp_path / name)
    job.run(*STEPS)
    tables = [LatencyTable.load(tmp_path / name) for name in ("table.json", "table_1.json")]
    assert [table.profile.runtime for table in tables] == ["torch_eager", "openvino"]
    exported = job.spec["results"]["export"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert exported["outcome"] in ("budget_met", "budget_missed")
    assert exported["slim"]["p50_ms"] > 0 and len(exported["others"]) == 1
    assert report["slim"]["num_macs"] < report["dense"]["num_macs"]
