"""The registry with the real service: a build, an imported device in `also`, and what a job tells its table."""

from typing import Any

import pytest

from pruning.architectures import build
from pruning.groups import coupling_groups
from pruning.network import Network
from pruning.operators import operators
from pruning.trace import trace
from secateur import Client
from secateur.schemas import Dataset, Model
from tests.e2e.conftest import Server
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
def phone(client: Client, folder: Any) -> str:
    """A device known by its table alone."""
    path = folder / "phone.csv"
    path.write_text(published(trace(build("cifar/resnet20", 10), (3, 32, 32))))
    client.create_device("phone", hardware="a phone")
    client.import_lut(path, device="phone", threads=4)
    return "phone"


def test_a_network_keeps_the_budget_of_a_device_known_by_its_table_alone(
    client: Client, inputs: tuple[Model, Dataset], phone: str, folder: Any, server: Server
) -> None:
    also = [{"device": phone, "threads": 4, "batch": BATCH, "budget_ratio": 0.7}]
    state = submit(client, inputs, finetune={"mode": "none"}, also=also).wait(timeout_s=PATIENCE_S).state
    assert state.outcome == "budget_met", state
    (limit,) = [row for row in client.report(state.id)["limits"] if row["name"].startswith(phone)]
    assert limit["planned"] <= limit["limit"] and limit["measured"] is None
    own, other = state.tables
    assert client.lut(other.lut_id).device_id == phone and other.version == 1
    mine = client.lut(own.lut_id)
    assert mine.device_id == "local" and mine.num_pairs >= 1
    assert mine.residual is not None and mine.residual < 1


def test_a_build_measures_all_a_model_needs_and_a_second_one_nothing(
    client: Client, inputs: tuple[Model, Dataset]
) -> None:
    model, dataset = inputs
    first, second = (
        client.wait_build(client.build_lut(model.id, dataset_id=dataset.id, batch=3).id, timeout_s=PATIENCE_S)
        for _ in range(2)
    )
    assert first.summary is not None and first.summary["num_entries_measured"] > 50
    assert second.summary is not None and second.summary["num_entries_measured"] == 0
    assert first.tables == second.tables
    events = list(client.build_events(first.id))
    left = [event.data["seconds_left"] for event in events if "seconds_left" in event.data]
    assert left and left[0] > left[-1]
