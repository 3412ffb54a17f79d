"""The API is killed while clients submit jobs and follow them."""

import contextlib
import json
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from app.store.repositories import Events, Jobs
from secateur import sse
from secateur.schemas import JobStatus
from secateur.wire import CLOSING
from tests.faults.run import Broken, Job, Run

NUM_JOBS = 4
TRY_EVERY_S = 0.05


@dataclass(kw_only=True)
class Client:
    """Somebody who submits one job, tries again until it is accepted, and follows it to its end over broken lines."""

    url: str
    key: str
    body: dict[str, Any]
    pause_s: float
    job_id: str = ""
    event_ids: list[int] = field(default_factory=list)
    status: str = ""
    refusal: str = ""
    gone: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Begin, in a thread of its own."""
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def done(self) -> bool:
        """Whether its job has ended, or was refused."""
        return bool(self.refusal) or (bool(self.status) and JobStatus(self.status).ended)

    def _run(self) -> None:
        time.sleep(self.pause_s)
        while not self.gone.is_set() and not self.done:
            with contextlib.suppress(httpx.TransportError):
                if self.job_id:
                    self._follow()
                else:
                    self._submit()
            time.sleep(TRY_EVERY_S)

    def _submit(self) -> None:
        answer = httpx.post(
            f"{self.url}/v1/prune-jobs", json=self.body, headers={"Idempotency-Key": self.key}, timeout=20
        )
        if answer.status_code == 202:
            self.job_id = answer.json()["id"]
        elif answer.status_code < 500:
            self.refusal = answer.text

    def _follow(self) -> None:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(max(self.event_ids, default=0))}
        with httpx.stream(
            "GET", f"{self.url}/v1/prune-jobs/{self.job_id}/events", headers=headers, timeout=20
        ) as stream:
            for message in sse.parse(stream.iter_bytes()):
                if message is not None and message.event != CLOSING:
                    event = json.loads(message.data)
                    self.event_ids.append(event["id"])
                    self.status = event["data"].get("status", self.status)


def api(run: Run) -> None:
    """The API is killed again and again while clients submit with idempotency keys and follow their jobs."""
    run.full()
    process = _start(run, 0)
    clients = []
    for number in range(NUM_JOBS):
        toy, job = run.toy()
        job.ledger = run.setup.folder / f"ledger-{number}"
        job.ledger.touch()
        told = run.setup.folder / f"toy-{number}.json"
        told.write_text(json.dumps({**toy, "ledger": str(job.ledger)}))
        body = {**run.service.inputs, "classes": ["a"], "budget_ms": 1.0, "name": str(told)}
        clients.append(
            (Client(url=run.service.api_url, key=f"key-{number}", body=body, pause_s=run.rng.uniform(0, 1)), job)
        )
    try:
        for client, _ in clients:
            client.start()
        for _ in range(run.rng.randint(1, 3)):
            run.wait(run.rng.uniform(0, 1.5))
            process.kill()
            process.wait()
            process = _start(run, run.service.api_port)
        for client, job in clients:
            run.until(lambda client=client: client.done, "a client's job to end")  # type: ignore[misc]
            if client.refusal:
                raise Broken(f"a submission was refused: {client.refusal}")
            job.id = client.job_id
            run.jobs.append(job)
            _heard_everything(run, client, job)
        with run.service.database.read() as session:
            if (num := len(Jobs(session).page(limit=100).rows)) != NUM_JOBS:
                raise Broken(f"{NUM_JOBS} submissions became {num} jobs")
    finally:
        for client, _ in clients:
            client.gone.set()
        process.kill()
        process.wait()


def _start(run: Run, port: int) -> "subprocess.Popen[str]":
    process = run.service.start_api(port, run.setup.folder / "api.log")
    assert process.stdout is not None
    process.stdout.close()
    return process


def _heard_everything(run: Run, client: Client, job: Job) -> None:
    with run.service.database.read() as session:
        there = [event.id for event in Events(session).after(job.id, limit=10_000)]
    if client.event_ids != there:
        raise Broken(f"the events {there} of {job.id} were told as {client.event_ids}")
