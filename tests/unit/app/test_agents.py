"""The routes of agents: a device, a lease, and results that are checked like anything from a stranger."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.migrate import migrate
from app.services import Services
from app.settings import Settings
from app.store.repositories import Jobs, Measurements, Workers
from tests.unit.app.test_measurements import ONE, OTHER, add_job, ask

PROFILE = {
    "hardware": "Jetson", "runtime": "onnxruntime", "runtime_version": "1", "threads": 1, "batch": 1, "dtype": "fp32",
    "layout": "nchw",
    "huge_pages": False,
}  # fmt: skip
SIGNATURE = {"kind": "conv", "height": 8, "width": 8}
REQUEST = {"signature": SIGNATURE, "c_ins": [3], "c_outs": [8, 16], "paired": False, "count": 1}
ENTRIES = [{"signature": SIGNATURE, "points": [[3, 8, 1.5, 2.0, 15]]}]
TABLE = {"schema_version": 1, "profile": PROFILE, "entries": ENTRIES, "step": 8, "noise": 0.01, "seconds": 2.5}
TIMING = {
    "p50_ms": 1.0, "p90_ms": 1.5, "num_samples": 2, "samples_ms": [1.0, 1.5], "num_disturbed": 0, "busy": False,
    "noise": 0.0,
}  # fmt: skip


class Api:
    """An app, and the requests of agents."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.services: Services = client.app.state.services  # type: ignore[attr-defined]

    def send(self, path: str, body: dict[str, Any], method: str = "POST", agent: str = ONE) -> Any:
        headers = {"X-Secateur-Agent": agent}
        content = None if method == "GET" else {"agent": agent, **body}
        return self.client.request(method, f"/v1{path}", json=content, headers=headers)

    def register(self, device: str = "jetson", agent: str = ONE, **profile: Any) -> Any:
        return self.send("/agents", {"device": device, "profiles": [{**PROFILE, **profile}]}, agent=agent)

    def lease(self, agent: str = ONE, fingerprint: str | None = None) -> Any:
        fingerprint = fingerprint or self.register(agent=agent).json()["fingerprint"]
        return self.send("/agents/jetson/lease", {"fingerprint": fingerprint, "wait_s": 0}, agent=agent)

    def want(self, **fields: Any) -> str:
        """Let a job want something, and lease it to the first agent."""
        with self.services.database.write() as session:
            row = ask(session, add_job(session), profile=PROFILE, **fields)
        assert self.lease().json()["id"] == row.id
        return row.id


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    settings = Settings(home=tmp_path / "home")
    migrate(settings)
    with TestClient(create_app(settings), base_url="http://127.0.0.1:8117") as client:
        yield Api(client)


def problem(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_an_agents_device_is_listed_as_online(client: TestClient) -> None:
    body = {"agent": ONE, "device": "jetson", "profiles": [PROFILE]}
    assert client.post("/v1/agents", json=body).status_code == 200
    (device,) = client.get("/v1/devices").json()["items"]
    assert (device["online"], device["runtimes"]) == (True, ["onnxruntime"]) and device["last_seen_at"]
    assert "agent online" in client.get("/").text
    assert problem(client.delete("/v1/devices/jetson")) == (409, "device_in_use")


def test_a_device_is_one_machine_and_no_workers(api: Api) -> None:
    assert api.register().status_code == 200
    assert api.register(agent=OTHER).status_code == 200
    assert problem(api.register(agent=OTHER, hardware="another")) == (409, "device_exists")
    with api.services.database.write() as session:
        Workers(session).register("w/0:1", slot="w/0", device_id="local")
    assert problem(api.register("local")) == (409, "device_exists")
    assert problem(api.register("../x")) == (422, "invalid_request")
    assert problem(api.lease(fingerprint="0" * 16)) == (409, "device_changed")
    nowhere = api.send("/agents/nowhere/lease", {"fingerprint": "0", "wait_s": 0})
    assert problem(nowhere) == (404, "not_found")


def test_a_lease_has_all_that_measuring_needs_and_a_result_arrives_once(api: Api) -> None:
    assert api.lease().status_code == 204
    payload = {"requests": [REQUEST], "known": None}
    one = api.want(kind="table", payload=payload)
    task = api.lease().json()  # the answer before was lost
    assert (task["id"], task["kind"], task["payload"], task["begun"]) == (one, "table", payload, None)
    assert api.lease(agent=OTHER).status_code == 204
    path = f"/measurements/{one}"
    assert api.send(f"{path}/progress", {"fraction": 0.5, "table": TABLE}, "PUT").status_code == 204
    assert problem(api.send(f"{path}/result", {"table": TABLE}, agent=OTHER)) == (409, "lease_lost")
    assert api.send(f"{path}/progress", {"release": True}, "PUT").status_code == 204
    assert problem(api.send(f"{path}/result", {"table": TABLE})) == (409, "lease_lost")
    assert api.lease(agent=OTHER).json()["begun"]["entries"] == ENTRIES
    for _ in range(2):
        assert api.send(f"{path}/result", {"table": TABLE}, agent=OTHER).status_code == 204
    assert problem(api.send(f"{path}/progress", {}, "PUT", agent=OTHER)) == (409, "lease_lost")
    with api.services.database.read() as session:
        row = Measurements(session).get(one)
        assert row is not None and row.result is not None and row.result["table"]["entries"] == ENTRIES
    assert problem(api.send("/measurements/msr_0/result", {"step": 1})) == (404, "not_found")


def test_a_network_goes_to_the_agent_that_times_it_and_to_nobody_else(api: Api) -> None:
    blob = api.services.blobs.put_bytes(b"a network")
    other = api.services.blobs.put_bytes(b"a secret")
    one = api.want(kind="networks", files=[blob.sha256, blob.sha256])
    path = f"/measurements/{one}/files"
    assert hashlib.sha256(api.send(f"{path}/{blob.sha256}", {}, "GET").content).hexdigest() == blob.sha256
    assert problem(api.send(f"{path}/{other.sha256}", {}, "GET")) == (404, "not_found")
    assert problem(api.send(f"{path}/{blob.sha256}", {}, "GET", agent=OTHER)) == (409, "lease_lost")
    result = f"/measurements/{one}/result"
    assert problem(api.send(result, {"networks": [TIMING]})) == (422, "result_refused")
    assert api.send(result, {"networks": [TIMING, TIMING]}).status_code == 204


def test_a_cancelled_job_takes_the_work_from_its_agent(api: Api) -> None:
    one = api.want(kind="step")
    with api.services.database.write() as session:
        row = Measurements(session).get(one)
        assert row is not None and Jobs(session).request_cancel(row.job_id)
    assert problem(api.send(f"/measurements/{one}/progress", {}, "PUT")) == (409, "lease_lost")
    assert problem(api.send(f"/measurements/{one}/result", {"step": 8})) == (409, "lease_lost")


def point(*values: Any) -> dict[str, Any]:
    return {"entries": [{"signature": SIGNATURE, "points": [list(values)]}]}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (point(3, 8, -1.0, 2.0, 15), "invalid_request"),
        (point(3, 8, 0, 2.0, 15), "invalid_request"),
        (point(3, 8, 1.0, 1e300, 15), "invalid_request"),
        (point(3, 8, "1.0", 2.0, 15), "invalid_request"),
        (point(True, 8, 1.0, 2.0, 15), "invalid_request"),
        (point(3, 8, 1.0, 2.0), "invalid_request"),
        ({"scale": 2.0}, "invalid_request"),
        ({"schema_version": 2}, "invalid_request"),
        ({"coarse": True}, "invalid_request"),
        (point(3, 9, 1.0, 2.0, 15), "result_refused"),
        ({"entries": ENTRIES * 2}, "result_refused"),
        ({"entries": [{"signature": {"kind": "add"}, "points": []}]}, "result_refused"),
        ({"entries": [{"signature": SIGNATURE, "points": [[3, 8, 1.0, 2.0, 15]] * 2}]}, "result_refused"),
        ({"profile": {**PROFILE, "threads": 2}}, "result_refused"),
    ],
)
def test_a_table_that_does_not_answer_the_question_is_refused(api: Api, change: dict[str, Any], code: str) -> None:
    one = api.want(kind="table", payload={"requests": [REQUEST], "known": None})
    table = {**TABLE, **change}
    assert problem(api.send(f"/measurements/{one}/result", {"table": table})) == (422, code)
    assert problem(api.send(f"/measurements/{one}/progress", {"table": table}, "PUT")) == (422, code)
    with api.services.database.read() as session:
        row = Measurements(session).get(one)
        assert row is not None and (row.status, row.result) == ("leased", None)


@pytest.mark.parametrize("body", ["NaN", "Infinity", "-1", "1e999"])
def test_numbers_that_json_should_not_have_are_refused(api: Api, body: str) -> None:
    one = api.want(kind="networks", files=["a" * 64])
    text = json.dumps({"agent": ONE, "networks": [{**TIMING, "p50_ms": "here"}]}).replace('"here"', body)
    headers = {"Content-Type": "application/json"}
    answer = api.client.post(f"/v1/measurements/{one}/result", content=text, headers=headers)
    assert answer.status_code in (400, 422)


def test_a_result_has_one_answer_of_the_kind_that_was_asked_for(api: Api) -> None:
    one = api.want(kind="step")
    path = f"/measurements/{one}/result"
    assert problem(api.send(path, {})) == (422, "invalid_request")
    assert problem(api.send(path, {"step": 8, "error": "x"})) == (422, "invalid_request")
    assert problem(api.send(path, {"networks": [TIMING]})) == (422, "result_refused")
    assert problem(api.send(path, {"table": TABLE})) == (422, "result_refused")
    assert api.send(path, {"error": "ValueError: no"}).status_code == 204
    with api.services.database.read() as session:
        row = Measurements(session).get(one)
        assert row is not None and (row.status, row.error) == ("failed", "ValueError: no")


def test_a_table_may_be_larger_than_other_bodies_and_not_than_any_table(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", max_body_bytes=1024, max_lut_bytes=4096)
    migrate(settings)
    with TestClient(create_app(settings), base_url="http://127.0.0.1:8117") as client:
        api = Api(client)
        widths = list(range(1, 301))
        one = api.want(kind="table", payload={"requests": [{**REQUEST, "c_outs": widths}], "known": None})
        for num_points, status in ((300, 413), (60, 204)):
            points = [[3, width, 1.5, 2.0, 15] for width in widths[:num_points]]
            table = {**TABLE, "entries": [{"signature": SIGNATURE, "points": points}]}
            assert api.send(f"/measurements/{one}/result", {"table": table}).status_code == status
