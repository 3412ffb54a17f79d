"""Stopping in good order, with real processes and signals: nothing is lost, and nothing is done twice."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from secateur import sse
from secateur.wire import CLOSING
from tests.integration.engine_service import ROOT, Service, eventually, lives, slot_of


@pytest.fixture
def service(tmp_path: Path, empty_url: str) -> Iterator[Service]:
    """An empty service without a worker."""
    service = Service(tmp_path, empty_url, drain_timeout_s=10)
    yield service
    service.close()


@pytest.fixture
def api(service: Service) -> Iterator["subprocess.Popen[str]"]:
    """An API process on the service, and its address in `args`."""
    with service.start_api() as process:
        try:
            yield process
        finally:
            process.kill()


def ticks(service: Service) -> list[int]:
    """Every tick that was ever made."""
    return [int(line[1]) for line in service.ledger("tick")]


def test_a_job_drained_in_mid_training_goes_on_elsewhere_from_its_checkpoint(service: Service) -> None:
    workers = [service.start_worker(slot=slot) for slot in (0, 1)]
    eventually(lambda: len(service.live_workers()) == 2, "two workers")
    job_id = service.submit(ticks=20, tick_s=0.15)
    child = int(service.wait_for("tick", "3")[-1])
    slot = slot_of(service, job_id)
    began = time.monotonic()
    workers[slot].terminate()
    assert workers[slot].wait(20) == 0
    assert time.monotonic() - began < 5, "it leaves at the next checkpoint, not at the limit"
    assert not lives(child)
    job = service.ended(job_id)
    assert (job.status, job.outcome, job.num_lost) == ("succeeded", "budget_met", 0)
    assert job.summary == {"budget_ms": 1.5, "measured_ms": 1.25, "accuracy": 0.5}
    assert slot_of(service, job_id) != slot
    assert ticks(service) == list(range(20)), "the drained worker's last tick is in the checkpoint"
    told = [event.data["tick"] for event in service.events(job_id, "metric")]
    assert told == list(range(20)), "the history lost or repeated what belongs to the last checkpoint"
    texts = [event.data.get("text") for event in service.events(job_id, "log")]
    assert "The worker stops; another one will go on." in texts
    assert [event.kind for event in service.events(job_id, "warning")] == []


def test_a_step_that_ends_while_its_worker_drains_is_not_run_again(service: Service) -> None:
    worker = service.start_worker()
    job_id = service.submit(ticks=1, tick_s=1.0)
    service.wait_for("work")
    worker.terminate()
    assert worker.wait(20) == 0
    service.start_worker()
    assert service.ended(job_id).status == "succeeded"
    assert ticks(service) == [0]


def test_a_step_that_comes_to_no_checkpoint_is_ended_at_the_limit(tmp_path: Path, sqlite_url: str) -> None:
    service = Service(tmp_path, sqlite_url, drain_timeout_s=0.5)
    try:
        worker = service.start_worker()
        job_id = service.submit(ticks=5, hold=3)
        child = service.held(job_id)
        worker.terminate()
        assert worker.wait(10) == 0 and not lives(child)
        assert service.job(job_id).worker_id is None
        service.start_worker()
        assert service.ended(job_id).status == "succeeded" and ticks(service) == list(range(5))
        assert service.job(job_id).num_lost == 0
    finally:
        service.close()


def test_a_draining_worker_begins_nothing_more(service: Service) -> None:
    worker = service.start_worker()
    first = service.submit(ticks=2, tick_s=1.0)
    service.wait_for("work")
    second = service.submit()
    worker.terminate()
    assert worker.wait(20) == 0
    assert service.job(second).status == "queued" and service.job(second).attempt == 0
    service.start_worker()
    assert {service.ended(job_id).status for job_id in (first, second)} == {"succeeded"}


def test_the_api_finishes_what_it_is_answering_and_listens_no_more(
    api: "subprocess.Popen[str]", service: Service
) -> None:
    host, port = "127.0.0.1", service.api_port
    slow = http.client.HTTPConnection(host, port, timeout=20)
    body = json.dumps({"model_id": "m", "dataset_id": "d", "classes": ["a"], "budget_ms": 1}).encode()
    slow.putrequest("POST", "/v1/prune-jobs")
    slow.putheader("Content-Type", "application/json")
    slow.putheader("Content-Length", str(len(body)))
    slow.endheaders(body[:10])
    time.sleep(0.3)
    api.terminate()
    eventually(lambda: not listens(host, port), "the end of listening")
    assert api.poll() is None
    slow.send(body[10:])
    answer = slow.getresponse()
    assert answer.status == 422 and json.load(answer)["code"] == "unknown_model"
    slow.close()
    assert api.wait(20) == 0


def test_an_event_stream_says_that_the_api_leaves_and_goes_on_at_another(
    api: "subprocess.Popen[str]", service: Service
) -> None:
    job_id = service.submit(ticks=8, tick_s=0.25)
    seen: list[bytes] = []
    with httpx.stream("GET", f"{service.api_url}/v1/prune-jobs/{job_id}/events", timeout=20) as stream:
        lines = stream.iter_lines()
        while "queued" not in next(lines):
            pass
        watcher = Watcher(service.api_url, job_id)
        eventually(lambda: watcher.ids, "the watcher's first event")
        api.terminate()
        seen = [line.encode() for line in lines]
    assert b"event: closing" in seen and b"retry: 2000" in seen
    assert api.wait(20) == 0
    service.start_worker()
    with service.start_api(port=service.api_port) as other:
        watcher.thread.join(60)
        other.terminate()
        assert other.wait(20) == 0
    assert watcher.status == "succeeded"
    events = [event.id for kind in ("status", "progress", "phase") for event in service.events(job_id, kind)]
    assert set(events) <= set(watcher.ids) and len(watcher.ids) == len(set(watcher.ids)), (
        "one event was lost or came twice"
    )


def test_a_second_signal_ends_the_api_at_once(api: "subprocess.Popen[str]", service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.api_port)) as half:
        half.sendall(b"POST /v1/prune-jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n")
        half.sendall(b"Content-Length: 100\r\n\r\n{")
        time.sleep(0.3)
        api.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert api.poll() is None
        began = time.monotonic()
        api.send_signal(signal.SIGTERM)
        api.wait(10)
        assert time.monotonic() - began < 3


def test_a_watched_service_stops_its_workers_before_its_api(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SECATEUR_DRAIN_TIMEOUT_S": "5", "SECATEUR_HOME": str(home)}
    environment["SECATEUR_LOCK_FOLDER"] = str(tmp_path / "locks")
    command = [sys.executable, "-m", "secateur", "serve", "--port", "0", "--json"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True, cwd=tmp_path
        )
        try:
            assert process.stdout is not None
            json.loads(process.stdout.readline())
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.stdout.close()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
    events = [line["event"] for line in lines]
    assert events.index("worker stops") < events.index("Shutting down")
    assert all("timestamp" in line and line["timestamp"].endswith("Z") and line["action"] for line in lines)


class Watcher:
    """Follows a job in a thread of its own, over however many connections it takes."""

    def __init__(self, url: str, job_id: str) -> None:
        self.ids: list[int] = []
        self.status = ""
        self.thread = threading.Thread(target=self._follow, args=(f"{url}/v1/prune-jobs/{job_id}/events",), daemon=True)
        self.thread.start()

    def _follow(self, url: str) -> None:
        while self.status not in ("succeeded", "failed", "cancelled"):
            with contextlib.suppress(httpx.TransportError):
                headers = {"Accept": "text/event-stream", "Last-Event-ID": str(max(self.ids, default=0))}
                with httpx.stream("GET", url, headers=headers, timeout=20) as stream:
                    for message in sse.parse(stream.iter_bytes()):
                        self._take(message)
            time.sleep(0.05)

    def _take(self, message: sse.Message | None) -> None:
        if message is None or message.event == CLOSING:
            return
        event = json.loads(message.data)
        self.ids.append(event["id"])
        self.status = event["data"].get("status", self.status)


def listens(host: str, port: int) -> bool:
    """Whether somebody takes connections there."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True
