"""One run: a real service with two workers under a supervisor, some jobs, and one fault."""

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.exc import DBAPIError

from app.settings import Settings
from app.store.models import PruneJobRow
from app.store.repositories import Events, Workers
from secateur.schemas import JobStatus
from tests.faults.clock import Clock
from tests.faults.databases import Postgres
from tests.integration.engine_service import Service, slot_of
from workers.worker import EXIT_LOST

SLOTS = (0, 1)
MARK = "FAULTS_RUN"
"""Environment variable by which everything that a run started is found."""
PATIENCE_S = 180.0
POLL_S = 0.03
HASTE: dict[str, Any] = {
    "worker_heartbeat_s": 0.3, "worker_timeout_s": 2.5, "worker_cut_off_s": 20.0, "drain_timeout_s": 10.0,
    "stall_timeout_s": 60.0,
}  # fmt: skip
"""Shorter timeouts than the shipped ones, so that many runs fit into an hour."""
SHIPPED = {name: Settings.model_fields[name].default for name in HASTE}
PHASES = ("queued", "first", "work", "tick", "tick", "tick", "worked", "last")
"""Where a fault may strike a job: by the words of its ledger."""

T = TypeVar("T")


class Broken(AssertionError):
    """A promise was not kept; the text says which."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a run is told."""

    fault: str
    database: str
    seed: str
    folder: Path
    url: str
    server: Postgres | None = None
    """The run's own server, for faults of the database itself."""
    shipped: bool = False
    """Whether the timeouts are the shipped ones."""


@dataclass(kw_only=True)
class Job:
    """A job of the run and what must come of it."""

    id: str
    ticks: int
    tick_s: float
    ledger: Path
    failure: str = ""
    """Code with which it must fail; empty for a job that must succeed."""
    restarts: int = 0
    """How often its work may begin from nothing: where the fault takes its checkpoint."""
    retries: int = 0
    """How often it was retried, as a user would, after it had failed as it should."""

    def lines(self, word: str = "") -> list[list[str]]:
        """Lines of its ledger, or those that begin with a word; the last word of each is a process id."""
        text = self.ledger.read_text() if self.ledger.exists() else ""
        lines = [line.split() for line in text.splitlines()]
        return [line for line in lines if word in ("", line[0])]


@dataclass(kw_only=True)
class Hit:
    """A fault that struck a job: how long until the job went on."""

    job: Job
    after_id: int
    """The job's last event before it."""
    since: float
    recovery_s: float | None = None


@dataclass(kw_only=True)
class Run:
    """A service, its supervisor and its jobs."""

    setup: Setup
    settings: dict[str, Any] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    """Environment of every worker, as `NAME=value`."""
    clocks: list[Clock] = field(default_factory=list)
    """Those of the workers, and of the database where it has one of its own."""

    def __post_init__(self) -> None:
        setup = self.setup
        self.rng = random.Random(setup.seed)
        values = {**(SHIPPED if setup.shipped else HASTE), "max_attempts": 8, **self.settings}
        self.timeout_s = float(values["worker_timeout_s"])
        self.service = Service(setup.folder, setup.url, **values)
        self.jobs: list[Job] = []
        self.hits: list[Hit] = []
        self.workers: dict[int, subprocess.Popen[bytes]] = {}
        self.exit_codes: list[int] = []
        """Of workers that ended before they were told to."""
        self.may_exit = {-signal.SIGKILL, EXIT_LOST}
        """Those that the fault explains."""
        self.start_at = dict.fromkeys(SLOTS, 0.0)
        """When the supervisor starts the worker of a slot, again and again; slots that are not here stay empty."""
        self.options: dict[int, dict[str, Any]] = {slot: {} for slot in SLOTS}
        """What the worker of a slot is started with."""

    @property
    def mark(self) -> str:
        """What the environment of everything that this run started says."""
        return f"{MARK}={self.setup.folder}"

    def tend(self) -> None:
        """Be the supervisor for a moment: start workers that are not there and whose time has come."""
        now = time.monotonic()
        for slot, worker in tuple(self.workers.items()):
            if worker.poll() is not None:
                self.exit_codes.append(worker.returncode)
                del self.workers[slot]
        for slot, start_at in self.start_at.items():
            if slot not in self.workers and now >= start_at:
                log = self.setup.folder / f"worker-{slot}.log"
                host = ("env", self.mark, *self.prefix)
                self.workers[slot] = self.service.start_worker(slot, log=log, host=host, **self.options[slot])
        self._look_for_recovery(now)

    def until(self, ask: Callable[[], T | None], what: str, patience_s: float = PATIENCE_S) -> T:
        """Return what `ask` returns once it is true, supervising meanwhile; a database that is away says nothing."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            with contextlib.suppress(DBAPIError):
                self.tend()
                if answer := ask():
                    return answer
            time.sleep(POLL_S)
        raise Broken(f"waited {patience_s:g} s in vain for {what}")

    def wait(self, seconds: float) -> None:
        """Supervise for so long."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= end, "the time to pass")

    def begin(self, num_jobs: int | None = None) -> None:
        """Start the workers and submit jobs of random lengths."""
        self.full()
        for _ in range(num_jobs or (1 if self.setup.shipped else self.rng.randint(2, 3))):
            self.submit()

    def full(self) -> None:
        """Wait until every slot has a live worker, and no dead one counts as live."""

        def live() -> int:
            with self.service.database.read() as session:
                return len(Workers(session).beats())

        self.until(lambda: live() == len(self.start_at), "the workers")

    def toy(self, act: str = "", *, hold: int | None = None) -> tuple[dict[str, Any], Job]:
        """What a job of random length is told, and the job, which has no id yet."""
        ticks, tick_s = self.rng.randint(4, 12), 0.3 if self.setup.shipped else self.rng.choice((0.02, 0.1, 0.2))
        ledger = self.setup.folder / f"ledger-{len(self.jobs)}"
        ledger.touch()
        job = Job(id="", ticks=ticks, tick_s=tick_s, ledger=ledger)
        return {"ledger": str(ledger), "ticks": ticks, "tick_s": tick_s, "hold": hold, "act": act}, job

    def submit(self, act: str = "", **expect: Any) -> Job:
        """Submit a job; `expect` are fields of Job."""
        toy, job = self.toy(act)
        for name, value in expect.items():
            setattr(job, name, value)
        job.id = self.service.submit(toy=toy)
        self.jobs.append(job)
        return job

    def strike(self, *phases: str) -> Job:
        """Wait until a random job comes to a random moment of one of these phases (of all), and return it."""
        job = self.rng.choice(self.jobs)
        phase = self.rng.choice(phases or (PHASES[1:-1] if self.setup.shipped else PHASES))
        words = ["tick", str(self.rng.randrange(job.ticks))] if phase == "tick" else [phase]

        def there() -> bool:
            return phase == "queued" or any(line[: len(words)] == words for line in job.lines(words[0]))

        self.until(lambda: there() or self.ended(job), " ".join(words))
        time.sleep(self.rng.uniform(0, 1.5 * job.tick_s))
        return job

    def slot_of(self, job: Job) -> int:
        """Slot of the worker that has the job, else any that has a worker."""
        with contextlib.suppress(AssertionError):
            if (slot := slot_of(self.service, job.id)) in self.workers:
                return slot
        return self.rng.choice(sorted(self.until(lambda: self.workers, "a worker")))

    def row(self, job: Job) -> PruneJobRow:
        """The job's row as it is now."""
        return self.service.job(job.id)

    def ended(self, job: Job) -> bool:
        """Whether the job has ended."""
        return JobStatus(self.row(job).status).ended

    def hit(self, job: Job) -> None:
        """Note that a fault has just struck the job's worker, child or database."""
        if self.row(job).status == "running":
            self.hits.append(Hit(job=job, after_id=self._last_event(job), since=time.monotonic()))

    def pause(self) -> float:
        """How long a dead worker stays away: not at all, or for longer than it takes others to notice."""
        return self.rng.choice((0.0, 0.0, 2.5 * self.timeout_s))

    def kill(self, slot: int, *, pause_s: float) -> None:
        """Kill the worker of a slot, which the supervisor starts again after a pause."""
        self.workers[slot].kill()
        self.start_at[slot] = time.monotonic() + pause_s

    def finish(self) -> None:
        """Wait for the end of every job, and for the workers to be complete again."""
        for job in self.jobs:
            self.until(lambda job=job: self.ended(job), f"the end of {job.id}")  # type: ignore[misc]
        self.start_at = dict.fromkeys(self.start_at, 0.0)
        self.full()

    def leave(self) -> list[int]:
        """Stop the workers in good order, frozen ones included; return their exit codes."""
        self.start_at.clear()
        for worker in self.workers.values():
            worker.terminate()
        codes = [worker.wait(60) for worker in self.workers.values()]
        self.workers.clear()
        return codes

    def close(self) -> None:
        """End whatever is left."""
        self.service.close()
        for pid in marked(self.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _last_event(self, job: Job) -> int:
        with self.service.database.read() as session:
            return max((event.id for event in Events(session).after(job.id, limit=10_000)), default=0)

    def _look_for_recovery(self, now: float) -> None:
        for hit in self.hits:
            if hit.recovery_s is None:
                with contextlib.suppress(DBAPIError), self.service.database.read() as session:
                    new = Events(session).after(hit.job.id, hit.after_id)
                    if any(event.kind in ("status", "phase", "metric", "progress") for event in new):
                        hit.recovery_s = now - hit.since


def marked(mark: str) -> list[int]:
    """Ids of the processes whose environment says so and that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def read_json(content: bytes) -> dict[str, Any]:
    """The object in a small file."""
    found: dict[str, Any] = json.loads(content)
    return found
