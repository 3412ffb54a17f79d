"""The registry with the real service: a build, an imported device in `also`, and what a job tells its table."""

import json
from pathlib import Path

import pytest
import torch

from pruning.architectures import build
from pruning.export import to_onnx
from pruning.groups import coupling_groups
from pruning.network import Network
from pruning.operators import operators
from pruning.trace import trace
from secateur import Client
from secateur.schemas import Dataset, Model
from tests.builders import SHAPE, Chain
from tests.e2e.test_main_job import PATIENCE_S, submit

BATCH = 16
STEP = 8


def published(network: Network) -> str:
    """A CSV as others publish it: every convolution of the network at widths eight apart, a nanosecond a kilo-MAC."""
    groups = coupling_groups(network)
    dense = {group.id: group.units for group in groups}
    lines = {"batch,cin,cout,fmap_in,kernel,stride,groups,latency_us"}
    for op in operators(network, groups):
        one = op.signature
        if one.kind != "conv":
            continue
        ins = [op.c_in.at(dense)] if op.c_in.at(dense) == 3 else range(STEP, op.c_in.at(dense) + 1, STEP)
        for c_in in ins:
            for c_out in range(STEP, op.c_out.at(dense) + 1, STEP):
                area = (one.height // one.stride[0]) ** 2
                us = BATCH * area * c_in * c_out * one.kernel[0] ** 2 / 1e6
                lines.add(f"{BATCH},{c_in},{c_out},{one.height},{one.kernel[0]},{one.stride[0]},1,{us:.6f}")
    header, *rows = sorted(lines, reverse=True)
    return "\n".join([header, *rows]) + "\n"


@pytest.fixture
def phone(client: Client, folder: Path) -> str:
    """A device known by its table alone."""
    path = folder / "phone.csv"
    path.write_text(published(trace(build("cifar/resnet20", 10), (3, 32, 32))))
    client.create_device("phone", hardware="a phone")
    client.import_lut(path, device="phone", threads=4)
    return "phone"


def test_one_job_keeps_every_condition_on_every_device_and_draws_the_frontier(
    client: Client, inputs: tuple[Model, Dataset], phone: str, folder: Path
) -> None:
    job = submit(
        client,
        inputs,
        finetune={"mode": "none"},
        sweep=2,
        also=[
            {"threads": 1, "batch": 2, "budget_ratio": 0.9},
            {"device": phone, "threads": 4, "batch": BATCH, "budget_ratio": 0.7},
        ],
        max_weight_bytes=600_000,
        min_widths={"layer1.0.conv1": 12},
        keep_dense=["layer2.0.conv1"],
    )
    state = job.wait(timeout_s=PATIENCE_S).state
    assert state.outcome == "budget_met", state
    job.download(folder / "conditions")
    plan = json.loads((folder / "conditions" / "plan.json").read_text())
    widths = plan["plans"]["main"]["chosen"]["widths"]
    assert widths["layer1.0.conv1"] >= 12 and widths["layer2.0.conv1"] == 32
    assert [row["id"] for row in plan["budgets"]] == ["latency_ns:1", "latency_ns:2", "weight_bytes"]
    report = json.loads((folder / "conditions" / "report.json").read_text())
    twice, elsewhere, stored = report["limits"]
    assert twice["measured"] <= twice["limit"] and stored["measured"] <= stored["limit"]
    assert elsewhere["name"].startswith(phone) and elsewhere["measured"] is None
    assert elsewhere["planned"] <= elsewhere["limit"]
    shares = [point["value_share"] for point in report["frontier"]]
    assert len(shares) == 3 and shares == sorted(shares), "more latency keeps more saliency"
    assert "Frontier" in (folder / "conditions" / "report.html").read_text()
    own, again, other = (client.lut(table.lut_id) for table in state.tables)
    assert (own.device_id, again.device_id, other.device_id, other.version) == ("local", "local", phone, 1)
    assert own.num_pairs >= 1 and own.residual is not None and own.residual < 1


def test_a_build_measures_all_a_model_needs_and_a_second_one_nothing(client: Client, folder: Path) -> None:
    torch.manual_seed(0)
    path = folder / "chain.onnx"
    to_onnx(trace(Chain((48, 64, 32)).eval(), SHAPE), path, batch=1)
    model = client.upload_model(path, arch="onnx")
    first, second = (
        client.wait_build(client.build_lut(model.id, batch=3).id, timeout_s=PATIENCE_S) for _ in range(2)
    )  # fmt: skip
    assert first.summary is not None and first.summary["num_entries_measured"] > 10
    assert second.summary is not None and second.summary["num_entries_measured"] == 0
    assert first.tables == second.tables
    events = list(client.build_events(first.id))
    left = [event.data["seconds_left"] for event in events if "seconds_left" in event.data]
    assert left and left[0] > left[-1]
