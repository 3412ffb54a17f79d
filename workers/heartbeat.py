"""Who lives: a worker's row and its heartbeat, and the reaper that passes on the work of the dead.

Each worker beats by the database's clock and looks after the others. Of several that notice a silent worker, one
declares it dead (one UPDATE, one winner), counts the loss in each of its jobs, and gives its workflows back to their
queues. A reaper may die at any point of this: what it left is found by the next one, because a workflow whose executor
is not live is nobody's.
"""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.store.models import PruneJobRow
from app.store.repositories import Events, Jobs, Workers
from app.store.sessions import Database
from secateur.schemas import JobStatus
from workers.fence import is_away

log = structlog.get_logger(__name__)

ACTIVE = [status for status in JobStatus if not status.ended]
LONG_S = 365 * 86400.0
PAGE = 200


@dataclass(frozen=True, kw_only=True)
class Running:
    """A workflow that an executor has taken from its queue."""

    workflow_id: str
    queue: str
    executor_id: str
    expired: bool = False
    """True when nobody waits for its result any more."""


class Queues(Protocol):
    """What the reaper needs of the job engine."""

    def running(self) -> list[Running]:
        """Return every workflow that some executor holds."""
        ...

    def resume(self, workflow_id: str, queue: str) -> None:
        """Give a workflow back to its queue; whoever held it can record nothing any more."""
        ...

    def cancel(self, workflow_id: str) -> None:
        """End a workflow without a result."""
        ...

    def statuses(self, workflow_ids: list[str]) -> dict[str, str]:
        """Return the engine's status of these workflows; one that it does not know is left out."""
        ...


class EndProcess(Protocol):
    """Kills the process of a worker when it runs on this machine and is not ourselves."""

    def __call__(self, worker_id: str, *, only_stopped: bool) -> None:
        """`only_stopped`: only if the process is frozen (SIGSTOP)."""
        ...


class Reaper:
    """Passes on what dead workers held."""

    def __init__(
        self,
        database: Database,
        queues: Queues,
        end_process: EndProcess,
        *,
        max_attempts: int,
        release: Callable[[], None],
    ) -> None:
        """`release` queues the jobs whose wait for others is over."""
        self._database = database
        self._queues = queues
        self._end_process = end_process
        self._max_attempts = max_attempts
        self.release = release

    def reap(self, dead: Iterable[str]) -> None:
        """Count the loss in the jobs of these workers, declared dead by the caller, and give their work back."""
        for worker_id in dead:
            log.warning("worker is dead", action="reap", worker_id=worker_id)
            # On this machine a frozen process would keep the device from its heir.
            self._end_process(worker_id, only_stopped=False)
            with self._database.write() as session:
                for row in Jobs(session).active_of_worker(worker_id):
                    self._lose(session, row, worker_id)
        self.rescue()

    def rescue(self) -> None:
        """Give back every workflow whose executor is not live."""
        for running in self._queues.running():
            if self._is_live(running.executor_id):
                continue
            # Another reaper may have been faster and the workflow be in good hands by now: look once more.
            if running not in self._queues.running():
                continue
            if running.expired:
                self._queues.cancel(running.workflow_id)
            else:
                self._queues.resume(running.workflow_id, running.queue)

    def reconcile(self) -> None:
        """End jobs that nobody will end: cancelled with no live worker, or lost by the engine."""
        with self._database.read() as session:
            rows = [row for row in Jobs(session).page(status=ACTIVE, limit=PAGE).rows if self._abandoned(session, row)]
        statuses = self._queues.statuses([row.workflow_id for row in rows])
        for row in rows:
            status = statuses.get(row.workflow_id, "missing")
            if row.status == JobStatus.CANCELLING or status == "CANCELLED":
                self._end(row, None)
            elif status not in ("ENQUEUED", "DELAYED", "PENDING"):
                self._end(row, f"The job engine ended the job's workflow as {status} and not the job.")

    def _end(self, seen: PruneJobRow, failure: str | None) -> None:
        with self._database.write() as session:
            row = session.get(PruneJobRow, seen.id, with_for_update=True)
            if row is None or row.workflow_id != seen.workflow_id or not self._abandoned(session, row):
                return
            if failure is None:
                Jobs(session).finish_cancel(row.id)
            else:
                Jobs(session).fail(row.id, code="engine_error", detail=failure)

    def _lose(self, session: Session, row: PruneJobRow, worker_id: str) -> None:
        status = row.status
        lost = Jobs(session).lose_worker(row.id, worker_id)
        if lost is None:
            return
        if status == JobStatus.CANCELLING:
            Jobs(session).finish_cancel(row.id)
        elif lost >= self._max_attempts:
            detail = f"{lost} workers died while they ran this job; it is not tried again."
            Jobs(session).fail(row.id, code="poison_job", detail=detail)
        else:
            text = "The worker died; another one goes on from the last checkpoint."
            Events(session).append(row.id, "warning", {"code": "worker_lost", "text": text})

    def _is_live(self, worker_id: str) -> bool:
        with self._database.read() as session:
            return _live(session, worker_id)

    def _abandoned(self, session: Session, row: PruneJobRow) -> bool:
        if row.status == JobStatus.QUEUED and row.turn is None:
            return False  # it waits for other jobs, and the engine does not know it yet
        return row.worker_id is None or not _live(session, row.worker_id)


class Heartbeat(threading.Thread):
    """Beats for one worker and reaps; a thread of its own, so that nothing slow in the worker delays it."""

    def __init__(
        self,
        url: str,
        reaper: Reaper,
        end_process: EndProcess,
        worker_id: str,
        *,
        every_s: float,
        timeout_s: float,
        cut_off_s: float,
        on_lost: Callable[[str], None],
    ) -> None:
        """`on_lost` is told why this worker may go on no longer: it was declared dead, or heard nothing for `cut_off_s`."""
        super().__init__(name="heartbeat", daemon=True)
        self._database = _impatient(url, timeout_s / 3)
        self._reaper = reaper
        self._end_process = end_process
        self._worker_id = worker_id
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._cut_off_s = cut_off_s
        self._on_lost = on_lost
        self._leaving = threading.Event()
        self._steady_since = time.monotonic()
        self._beat_at = time.monotonic()
        self._looked_at = time.monotonic()

    def run(self) -> None:
        """Beat until stopped."""
        while not self._leaving.wait(self._every_s):
            try:
                self._beat()
            except DBAPIError as error:
                log.warning("heartbeat failed", action="heartbeat", error=str(error.orig))
                if is_away(error) and time.monotonic() - self._beat_at > self._cut_off_s:
                    # Its job is elsewhere by now, or nowhere while the database is away; the device is wanted here.
                    self._on_lost(f"cut off from the database for {self._cut_off_s:g} s")
                with contextlib.suppress(DBAPIError):
                    self._end_frozen()
        self._database.close()

    def stop(self) -> None:
        """Beat no more; return when the last beat is over."""
        self._leaving.set()
        self.join()

    def _end_frozen(self) -> None:
        """Kill frozen workers of this machine: on SQLite one that was stopped inside a transaction stops everybody."""
        with self._database.read() as session:
            workers = Workers(session)
            fresh = {row.id for row in workers.live(self._timeout_s)}
            silent = [row.id for row in workers.live(LONG_S) if row.id not in fresh]
        for worker_id in silent:
            self._end_process(worker_id, only_stopped=True)

    def _beat(self) -> None:
        with self._database.write() as session:
            lives = Workers(session).heartbeat(self._worker_id)
        if not lives:
            self._on_lost("declared dead by another worker")
            return
        self._reaper.release()
        now = time.monotonic()
        if now - self._beat_at > self._timeout_s / 2:
            # After a gap of our own (database away, machine asleep) others had no chance to beat either: wait for them.
            self._steady_since = now
        self._beat_at = now
        if now - self._steady_since >= self._timeout_s:
            self._look_after_others(now)

    def _look_after_others(self, now: float) -> None:
        with self._database.write() as session:
            dead = {*Workers(session).declare_dead(self._timeout_s), *Workers(session).dead_with_jobs()}
        if dead:
            self._reaper.reap(sorted(dead))
        if now - self._looked_at >= self._timeout_s:
            self._looked_at = now
            self._reaper.rescue()
            self._reaper.reconcile()


def _impatient(url: str, patience_s: float) -> Database:
    """Return the database as one that says within `patience_s` that it is locked: a late beat is worse than none."""
    database = Database(url, pool_size=1)
    if database.engine.dialect.name == "sqlite":

        @event.listens_for(database.engine, "connect")
        def connect(connection: sqlite3.Connection, record: Any) -> None:
            connection.execute(f"PRAGMA busy_timeout={int(patience_s * 1000)}")

    return database


def _live(session: Session, worker_id: str) -> bool:
    worker = Workers(session).get(worker_id)
    return worker is not None and worker.status == "live"
