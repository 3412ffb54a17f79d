"""Agents measure for a service elsewhere, whatever becomes of them, of the network and of the service."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from lut.measure.memory import environment, in_huge_pages
from lut.table import LatencyTable
from pruning.export import to_onnx
from pruning.trace import trace
from secateur.schemas import JobStatus, Model
from tests.integration.agent_service import DEVICE, Service, eventually, stop
from tests.toy_job import SIZE, write_inputs

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("agents"))
    try:
        yield service
    finally:
        service.close()


@pytest.fixture(autouse=True)
def no_agent_is_left(service: Service) -> Iterator[None]:
    """Every test has agents of its own."""
    yield
    service.end_agents()


@pytest.fixture(scope="module")
def model(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A network of two layers."""
    net = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )  # fmt: skip
    path = tmp_path_factory.mktemp("onnx") / "two.onnx"
    to_onnx(trace(net.eval(), (3, 8, 8)), path, batch=1)
    return service.client.upload_model(path, arch="onnx")


def test_a_table_is_built_on_a_device_elsewhere(service: Service, model: Model, tmp_path: Path) -> None:
    agent = service.start_agent()
    eventually(lambda: device_is(service, online=True), "the device")
    build = service.client.build_lut(model.id, device=DEVICE)
    build = service.client.wait_build(build.id, timeout_s=100)
    assert build.status == JobStatus.SUCCEEDED, build.failure
    (lut,) = service.client.luts(device=DEVICE)
    assert lut.num_entries > 10 and lut.profile["runtime"] == "onnxruntime"
    assert lut.profile["huge_pages"] == in_huge_pages(environment(os.environ))
    table = LatencyTable.load(service.client.export_lut(lut.id, tmp_path / "table.json"))
    assert table.num_entries == lut.num_entries
    assert stop(agent) == 0
    assert "delivered" in service.said() and "Stopped" in service.said()


def test_a_job_waits_for_a_device_that_is_offline_and_says_so(service: Service, model: Model) -> None:
    eventually(lambda: device_is(service, online=False), "the agent to count as offline")
    build = service.client.build_lut(model.id, device=DEVICE, threads=2)
    eventually(lambda: "is offline, last seen" in service.texts(build.id, builds=True), "a line that says so")
    assert service.client.lut_build(build.id).phase == "waiting"
    agent = service.start_agent()
    assert service.client.wait_build(build.id, timeout_s=100).status == JobStatus.SUCCEEDED
    assert stop(agent) == 0


def test_a_killed_agent_is_replaced_and_a_cut_network_comes_back(service: Service, model: Model) -> None:
    killed = service.start_agent(log="killed.log")
    eventually(lambda: device_is(service, online=True), "the device")
    build = service.client.build_lut(model.id, device=DEVICE, batch=2)
    eventually(lambda: "measure" in service.said("killed.log"), "work to begin")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    agent = service.start_agent(log="next.log")
    eventually(lambda: "measure" in service.said("next.log"), "another agent to take over")
    service.kill_api()
    eventually(lambda: "The service is away" in service.said("next.log"), "the agent to notice")
    service.start_api()
    assert service.client.wait_build(build.id, timeout_s=100).status == JobStatus.SUCCEEDED
    assert "The service is back" in service.said("next.log")
    assert stop(agent) == 0


def test_a_cancelled_job_stops_its_agent(service: Service, model: Model) -> None:
    agent = service.start_agent(log="cancelled.log")
    eventually(lambda: device_is(service, online=True), "the device")
    build = service.client.build_lut(model.id, device=DEVICE, batch=64)
    eventually(lambda: "stair" in service.said("cancelled.log"), "work to begin")
    service.client.cancel_build(build.id)
    eventually(lambda: "stopped," in service.said("cancelled.log"), "the agent to stop")
    assert service.client.wait_build(build.id, timeout_s=60, check=False).status == JobStatus.CANCELLED
    assert stop(agent) == 0


def test_an_agent_without_the_key_or_with_a_workers_name_is_refused(service: Service) -> None:
    assert service.start_agent(key="wrong", log="wrong.log").wait(60) == 2
    assert "key_refused" in service.said("wrong.log")


def test_a_prune_job_is_measured_elsewhere_from_table_to_verdict(service: Service, tmp_path: Path) -> None:
    write_inputs(tmp_path)
    (tmp_path / "model").rename(tmp_path / "net.onnx")
    uploaded = service.client.upload_model(tmp_path / "net.onnx", arch="onnx")
    dataset = service.client.upload_dataset(tmp_path / "dataset.zip", image_size=SIZE, mean=[0.5] * 3, std=[0.25] * 3)
    agents = [service.start_agent(log=f"prune{number}.log") for number in range(2)]
    eventually(lambda: device_is(service, online=True), "the agents")
    fields = {"classes": ["blue", "green", "red"], "budget_ratio": 0.8, "baselines": False, "device": DEVICE}
    assert service.client.validate(model_id=uploaded.id, dataset_id=dataset.id, **fields).ok
    job = service.client.submit(model_id=uploaded.id, dataset_id=dataset.id, finetune={"mode": "none"}, **fields)
    state = job.wait(timeout_s=200)
    assert state.status == JobStatus.SUCCEEDED and state.outcome in ("budget_met", "budget_missed"), state.failure
    report = job.report()
    assert report["slim"]["p50_ms"] > 0 and report["dense"]["p50_ms"] > 0
    assert DEVICE in {lut.device_id for lut in service.client.luts()} and not list(service.client.luts(device="local"))
    delivered = sum(service.said(f"prune{number}.log").count("delivered") for number in range(2))
    begun = sum(service.said(f"prune{number}.log").count("msr_") for number in range(2)) - delivered
    assert begun == delivered >= 4  # dense latency, stair, table, candidates, verdict; none of them twice
    assert [stop(agent) for agent in agents] == [0, 0]


def device_is(service: Service, *, online: bool) -> bool:
    """Whether the agents' device is online, or is not."""
    return any(one.online is online for one in service.client.devices() if one.id == DEVICE)
