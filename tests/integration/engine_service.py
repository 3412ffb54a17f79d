"""A service in a temporary home: its database, its queue, and worker processes that tests start, watch and kill."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from app.migrate import migrate
from app.queue import Queue
from app.scheduling import schedule
from app.settings import Settings
from app.store.blobs_open import open_blobs
from app.store.models import JobEventRow, PruneJobRow
from app.store.repositories import Artifacts, Datasets, Events, Jobs, Models, Workers
from app.store.sessions import Database
from secateur.schemas import JobStatus

ROOT = Path(__file__).parent.parent.parent
PATIENCE_S = 60.0
CHECKPOINT = "checkpoint/work/state/checkpoint.json"

T = TypeVar("T")


def eventually(ask: Callable[[], T | None], what: str) -> T:
    """Return what `ask` returns once it is true; fail after a patience that no healthy run needs."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if answer := ask():
            return answer
        time.sleep(0.03)
    raise AssertionError(f"waited in vain for {what}")


def slot_of(service: "Service", job_id: str) -> int:
    """Slot of the worker that has the job."""
    worker_id = service.job(job_id).worker_id
    assert worker_id is not None
    return int(worker_id.rpartition("/")[2].partition(":")[0])


def lives(pid: int) -> bool:
    """True while a process with this id runs; one that has ended and was not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


class Service:
    """One service; `close` ends every worker that a test left running."""

    def __init__(self, folder: Path, url: str, **settings: object) -> None:
        self._folder = folder
        self.home = folder / "home"
        values: dict[str, Any] = {
            "home": self.home,
            "database_url": url,
            "lock_folder": folder / "locks",
            "worker_heartbeat_s": 0.2,
            "worker_timeout_s": 1.5,
            "stall_timeout_s": 20,
            **settings,
        }
        self.settings = Settings(**values)
        self._environment = {f"SECATEUR_{name.upper()}": str(value) for name, value in values.items()}
        migrate(self.settings)
        self.database = Database(self.settings.url)
        self.blobs = open_blobs(self.settings)
        self.queue = Queue(self.settings.url, version=self.settings.queue_version)
        self.ledger_path = folder / "ledger"
        self._workers: list[subprocess.Popen[bytes]] = []
        self.inputs = self._add_inputs()

    def close(self) -> None:
        """End what still runs and give back every connection."""
        for worker in self._workers:
            with contextlib.suppress(ProcessLookupError):
                worker.send_signal(signal.SIGCONT)
                worker.kill()
            worker.wait()
        self.queue.close()
        self.database.close()

    def start_worker(
        self,
        slot: int = 0,
        locks: str = "locks",
        log: Path | None = None,
        host: Sequence[str] = (),
        options: Sequence[str] = (),
        **settings: object,
    ) -> subprocess.Popen[bytes]:
        """Start a worker process that runs the toy job and perhaps writes what it logs to a file.

        Workers with other `locks` are as if on another machine. `host` is the beginning of a command that becomes the
        worker, somewhere else; `settings` are the worker's alone.
        """
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "integration")])
        environment = {**os.environ, **self._environment, "PYTHONPATH": path, "A_SECRET": "x"}
        environment["SECATEUR_LOCK_FOLDER"] = str(self._folder / locks)
        environment |= {f"SECATEUR_{name.upper()}": str(value) for name, value in settings.items()}
        command = [*host, sys.executable, "-m", "toy_steps", str(slot), *options]
        with contextlib.ExitStack() as files:
            stderr = files.enter_context(log.open("ab")) if log else None
            worker = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=stderr)
        self._workers.append(worker)
        return worker

    def start_api(self, port: int = 0, log: Path | None = None) -> "subprocess.Popen[str]":
        """Start an API process, which perhaps logs to a file, and wait until it listens; `api_port` and `api_url` are where."""
        environment = {**os.environ, **self._environment, "PYTHONPATH": str(ROOT), "SECATEUR_PORT": str(port)}
        environment["SECATEUR_EVENTS_POLL_S"] = "0.05"
        with contextlib.ExitStack() as files:
            stderr = files.enter_context(log.open("ab")) if log else None
            process = subprocess.Popen(
                [sys.executable, "-m", "app"],
                env=environment,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        assert process.stdout is not None
        self.api_url = process.stdout.readline().split()[-1]
        self.api_port = int(self.api_url.rpartition(":")[2])
        return process

    def submit(
        self,
        *,
        ticks: int = 3,
        tick_s: float = 0.02,
        hold: int | None = None,
        act: str = "",
        kind: str = "prune",
        submitter: str = "",
        after: Sequence[str] = (),
        origin: Mapping[str, str] | None = None,
        **spec: Any,
    ) -> str:
        """Submit a toy job and return its id; see `toy_steps.work` for what it can be asked to do.

        `origin` has the `request_id` and `traceparent` of the request that made it.
        """
        toy = {"ledger": str(self.ledger_path), "ticks": ticks, "tick_s": tick_s, "hold": hold, "act": act}
        with self.database.write() as session:
            values = {"threads": 1, "batch": 1, "seed": 0, "toy": toy, **spec}
            if kind == "lut_build":
                values |= {"image_size": 8}
            job = Jobs(session).add(
                name="toy", spec=values, device_id="local", kind=kind, submitter=submitter, **self.inputs
            )
            for name, value in (origin or {}).items():
                setattr(job, name, value)
            schedule(session, self.queue, job, after=after)
            return job.id

    def held(self, job_id: str) -> int:
        """Process id of the job's child once it holds and all its checkpoints are stored."""
        line = self.wait_for("held")
        hold = self.job(job_id).spec["toy"]["hold"]

        def stored() -> bool:
            with self.database.read() as session:
                row = Artifacts(session).get(job_id, CHECKPOINT)
            if row is None or not self.blobs.exists(row.sha256):
                return False
            with contextlib.suppress(FileNotFoundError):  # replaced by the next one just now
                return bool(json.loads(self.blobs.read_bytes(row.sha256))["done"] == hold)
            return False

        eventually(stored, "the last checkpoint")
        return int(line[-1])

    def go(self) -> None:
        """Let jobs with the act `gate` go on."""
        with self.ledger_path.open("a") as file:
            file.write("go\n")

    def cancel(self, job_id: str) -> None:
        """Cancel as the API does."""
        with self.database.write() as session:
            assert Jobs(session).request_cancel(job_id) is not None
        if self.job(job_id).turn is not None:
            self.queue.cancel(self.job(job_id).workflow_id)

    def job(self, job_id: str) -> PruneJobRow:
        """The job as it is now."""
        with self.database.read() as session:
            row = Jobs(session).get(job_id)
            assert row is not None
            return row

    def ended(self, job_id: str) -> PruneJobRow:
        """The job once it has ended."""

        def ask() -> PruneJobRow | None:
            row = self.job(job_id)
            return row if JobStatus(row.status).ended else None

        return eventually(ask, f"the end of {job_id}")

    def events(self, job_id: str, kind: str) -> list[JobEventRow]:
        """The job's events of one kind."""
        with self.database.read() as session:
            return [event for event in Events(session).after(job_id, limit=10_000) if event.kind == kind]

    def artifacts(self, job_id: str, *, hidden: bool) -> list[str]:
        """Names of the job's files."""
        with self.database.read() as session:
            return [row.name for row in Artifacts(session).list(job_id, hidden=hidden)]

    def live_workers(self) -> list[str]:
        """Ids of workers that say they live."""
        with self.database.read() as session:
            return [row.id for row in Workers(session).live(3600)]

    def ledger(self, *words: str) -> list[list[str]]:
        """Lines of the ledger that begin with `words`, split; the last word is the writer's process id."""
        text = self.ledger_path.read_text() if self.ledger_path.exists() else ""
        lines = [line.split() for line in text.splitlines()]
        return [line for line in lines if line[: len(words)] == list(words)]

    def wait_for(self, *words: str) -> list[str]:
        """The first line of the ledger that begins with `words`, once it is there."""
        return eventually(lambda: self.ledger(*words), " ".join(words))[0]

    def _add_inputs(self) -> dict[str, str]:
        blob = self.blobs.put_bytes(b"weights")
        with self.database.write() as session:
            model = Models(session).add(
                name="m", arch="toy", sha256=blob.sha256, size_bytes=blob.size_bytes, num_parameters=1, num_outputs=1,
                input_shape=None, class_names=None,
            )  # fmt: skip
            dataset = Datasets(session).add(
                name="d", sha256=blob.sha256, size_bytes=blob.size_bytes, image_size=8, mean=[0.0], std=[1.0],
                classes=["a"], num_images={"train": 1}, num_skipped=0, skipped=[], class_map=None,
            )  # fmt: skip
            return {"model_id": model.id, "dataset_id": dataset.id}
