"""What the API does without a worker, on SQLite and on Postgres."""

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from app.retention import Ages, collect
from app.services import open_services
from app.settings import Settings
from app.store.repositories import Devices, Holds, Jobs, Luts
from secateur.schemas import PruneJob
from tests.integration.api_service import ROOT, Service, check, parse, put_inputs


def test_a_submitted_job_is_queued_at_a_location(idle: Service) -> None:
    answer = idle.client.post("/v1/prune-jobs", json=put_inputs(idle))
    assert answer.status_code == 202
    job = PruneJob.model_validate(answer.json())
    assert (job.status, job.phase, job.progress, job.attempt) == ("queued", None, 0.0, 0)
    assert answer.headers["location"] == f"/v1/prune-jobs/{job.id}"
    assert idle.client.get(answer.headers["location"]).json() == answer.json()


@pytest.mark.parametrize(
    ("change", "code", "pointers"),
    [
        ({"model_id": "mdl_x"}, "unknown_model", ["/model_id"]),
        ({"dataset_id": "x", "model_id": "y"}, "unknown_model", ["/model_id", "/dataset_id"]),
        ({"device": "phone"}, "unknown_device", ["/device"]),
        ({"also": [{"device": "phone", "budget_ms": 1}]}, "no_latency_table", ["/also/0"]),
        ({"also": [{"device": "analytic/gpu", "budget_ms": 1}]}, "unknown_device", ["/also/0/device"]),
        ({"classes": ["cow"]}, "unknown_class", ["/classes/0"]),
        ({"classes": ["cat", 3, -1, "DOG"]}, "unknown_class", ["/classes/1", "/classes/2", "/classes/3"]),
        ({"classes": ["cat", 0]}, "duplicate_class", ["/classes/1"]),
        ({"class_map": {"cat": 3, "dog": 0}}, "class_not_mapped", ["/classes/0"]),
        ({"class_map": {"dog": 0}}, "class_not_mapped", ["/classes/0"]),
        ({"input_shape": [3, 48, 48]}, "shape_mismatch", ["/dataset_id"]),
    ],
)
def test_a_job_that_cannot_be_is_refused_at_once(
    idle: Service, change: dict[str, Any], code: str, pointers: list[str]
) -> None:
    body = check(idle.client.post("/v1/prune-jobs", json=put_inputs(idle, **change)), 422, code)
    assert [error["pointer"] for error in body["errors"]] == pointers
    assert idle.client.get("/v1/prune-jobs").json()["items"] == []


@pytest.mark.parametrize(
    "facts",
    [
        {"num_outputs": 1000, "class_map": {"cat": 281, "dog": 200, "elk": 0}},
        {"num_outputs": 4, "class_names": ["elk", "cow", "dog", "cat"]},
        {"input_shape": [1, 32, 32]},
    ],
)
def test_classes_are_found_by_map_by_name_or_by_position(idle: Service, facts: dict[str, Any]) -> None:
    assert idle.client.post("/v1/prune-jobs", json=put_inputs(idle, **facts)).status_code == 202


def test_a_modelled_accelerator_needs_no_latency_table(idle: Service) -> None:
    also = [{"device": device, "budget_ratio": 0.5} for device in ("analytic/crisp", "analytic/2-4")]
    assert idle.client.post("/v1/prune-jobs", json=put_inputs(idle, also=also)).status_code == 202


def test_an_idempotency_key_gives_the_first_answer_again(idle: Service) -> None:
    spec, headers = put_inputs(idle), {"Idempotency-Key": "key-1"}
    first = idle.client.post("/v1/prune-jobs", json=spec, headers=headers)
    reordered = dict(reversed(spec.items()))
    again = idle.client.post("/v1/prune-jobs", json=reordered, headers=headers)
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["location"] == first.headers["location"] and again.headers["idempotency-replayed"] == "true"
    other = idle.client.post("/v1/prune-jobs", json=spec | {"seed": 1}, headers=headers)
    check(other, 422, "idempotency_key_reused")
    assert len(idle.client.get("/v1/prune-jobs").json()["items"]) == 1


def test_requests_with_one_key_at_once_make_one_job(idle: Service) -> None:
    spec, ids = put_inputs(idle), []

    def post() -> None:
        answer = idle.client.post("/v1/prune-jobs", json=spec, headers={"Idempotency-Key": "k"})
        ids.append((answer.status_code, answer.json().get("id")))

    threads = [threading.Thread(target=post) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 1 and ids[0][0] == 202 and len(ids) == 6
    assert len(idle.client.get("/v1/prune-jobs").json()["items"]) == 1


def test_jobs_are_listed_in_pages_and_by_status(idle: Service) -> None:
    spec = put_inputs(idle)
    ids = [idle.client.post("/v1/prune-jobs", json=spec).json()["id"] for _ in range(5)]
    idle.client.post(f"/v1/prune-jobs/{ids[2]}/cancel")
    seen, cursor = [], None
    while True:
        params = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = idle.client.get("/v1/prune-jobs", params=params).json()
        seen += [job["id"] for job in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ids[::-1]
    cancelled = idle.client.get("/v1/prune-jobs?status=cancelled&status=failed").json()["items"]
    assert [job["id"] for job in cancelled] == [ids[2]]


def test_a_queued_job_is_cancelled_at_once_and_can_be_retried(idle: Service) -> None:
    job_id = idle.client.post("/v1/prune-jobs", json=put_inputs(idle)).json()["id"]
    cancelled = idle.client.post(f"/v1/prune-jobs/{job_id}/cancel").json()
    assert cancelled["status"] == "cancelled" and cancelled["ended_at"]
    retried = idle.client.post(f"/v1/prune-jobs/{job_id}/retry").json()
    assert (retried["status"], retried["ended_at"]) == ("queued", None)
    events = idle.client.get(f"/v1/prune-jobs/{job_id}/events?after=0").json()["items"]
    assert [event["data"]["status"] for event in events] == ["queued", "cancelled", "queued"]


def test_a_result_that_is_not_there_yet_says_why(idle: Service) -> None:
    job_id = idle.client.post("/v1/prune-jobs", json=put_inputs(idle)).json()["id"]
    for path in ("plan", "report", "report?format=html", "artifacts/model.onnx"):
        assert "queued" in check(idle.client.get(f"/v1/prune-jobs/{job_id}/{path}"), 404, "not_found")["detail"]
    assert idle.client.get(f"/v1/prune-jobs/{job_id}/artifacts").json() == {"items": [], "next_cursor": None}


def test_a_stream_beats_while_nothing_happens_and_ends_when_the_service_stops(idle: Service) -> None:
    object.__setattr__(idle.settings, "events_heartbeat_s", 0.1)
    job_id = idle.client.post("/v1/prune-jobs", json=put_inputs(idle)).json()["id"]
    threading.Timer(1.0, idle.app.state.stopping.set).start()
    text = idle.client.get(f"/v1/prune-jobs/{job_id}/events").text
    told, closing, _ = text.partition("event: closing")
    assert closing and told.count(": still here") >= 3 and len(parse(told)) == 1
    check(idle.client.get("/readyz"), 503, "not_ready")


def test_a_latency_table_is_listed_and_downloaded(idle: Service) -> None:
    services = idle.services
    blob = services.blobs.put_bytes(b'{"entries": []}')
    with services.database.write() as session:
        lut = Luts(session).save(
            device_id="local", fingerprint="f0", profile={"threads": 1}, blob_sha256=blob.sha256, num_entries=0,
            num_signatures=0, step=8, noise=0.01, seconds=1.0,
        )  # fmt: skip
    shown = idle.client.get(f"/v1/luts/{lut.id}").json()
    assert shown["fingerprint"] == "f0" and "blob_sha256" not in shown
    assert idle.client.get("/v1/luts?device=local").json()["items"] == [shown]
    assert idle.client.get("/v1/luts?device=other").json()["items"] == []
    table = idle.client.get(f"/v1/luts/{lut.id}/file")
    assert table.json() == {"entries": []} and table.headers["etag"] == f'"{blob.sha256}"'
    check(idle.client.get("/v1/luts/x/file"), 404, "not_found")
    assert idle.client.get("/v1/devices").json()["items"][0]["id"] == "local"
    assert idle.client.get("/v1/devices/local").json()["hardware"] == "cpu"


def test_the_pages_show_jobs_and_escape_what_users_wrote(idle: Service) -> None:
    spec = put_inputs(idle, name="<script>alert(1)</script>\"'")
    job_id = idle.client.post("/v1/prune-jobs", json=spec).json()["id"]
    for path in ("/", f"/jobs/{job_id}"):
        page = idle.client.get(path)
        assert page.status_code == 200 and "<script>alert" not in page.text and "&lt;script&gt;" in page.text
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert "http://" not in page.text.replace("http://www.w3.org", "") and "https://" not in page.text
    check(idle.client.get("/jobs/x"), 404, "not_found")


def test_what_a_killed_upload_left_is_swept_away(idle: Service) -> None:
    services = idle.services
    blob = services.blobs.put_bytes(b"abandoned")
    with services.database.write() as session:
        Holds(session).add(blob.sha256)
    services.blobs.temporary_path().write_bytes(b"half")
    ages = Ages.of(idle.settings)
    assert list(collect(services, ages)) == [] and len(idle.files()) == 2
    assert len(list(collect(services, replace(ages, margin_s=-60.0)))) == 1 and idle.files() == []


def test_a_job_and_its_place_in_the_queue_are_stored_together_or_not_at_all(
    idle: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise OSError("no queue")

    monkeypatch.setattr(type(idle.services.queue), "enqueue_prune", broken)
    check(idle.client.post("/v1/prune-jobs", json=put_inputs(idle)), 500, "internal_error")
    with idle.services.database.read() as session:
        assert Jobs(session).page().rows == []


def test_the_process_stops_at_once_though_somebody_watches(tmp_path: Path) -> None:
    environment = {**os.environ, "SECATEUR_HOME": str(tmp_path / "home"), "SECATEUR_PORT": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "app"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    url = process.stdout.readline().split()[-1]
    services = open_services(Settings(home=tmp_path / "home"))
    with services.database.write() as session:
        Devices(session).register("local", name="l", hardware="cpu", runtime="ort", runtime_version="1")
    services_of = SimpleNamespace(services=services)
    with httpx2.Client(base_url=url) as client:
        job_id = client.post("/v1/prune-jobs", json=put_inputs(services_of)).json()["id"]
        with client.stream("GET", f"/v1/prune-jobs/{job_id}/events") as answer:
            lines = answer.iter_lines()
            assert any(line.startswith("id:") for line in lines), "the stream is open and has spoken"
            process.terminate()
            assert not any(line.startswith("id:") for line in lines)
    _, errors = process.communicate(timeout=15)  # far less than the grace for answers in flight
    services.close()
    assert process.returncode == 0 and "Traceback" not in errors
