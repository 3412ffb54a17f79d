"""The reaper passes on the work of the dead.

Of several workers that notice a silent one, one declares it dead (one UPDATE, one winner), counts the loss in each of its
jobs, and gives its workflows back to their queues. A reaper may die at any point of this: what it left is found by the
next one, because a workflow whose executor is not live is nobody's.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

import structlog
from sqlalchemy.orm import Session

from app.store.models import PruneJobRow
from app.store.repositories import Artifacts, Events, Jobs, Workers
from app.store.sessions import Database
from secateur.schemas import JobStatus

log = structlog.get_logger(__name__)

ACTIVE = [status for status in JobStatus if not status.ended]
PAGE = 200
BROKEN = "ERROR"
"""The engine's status of a workflow whose function raised."""


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

    def adrift(self) -> list[Running]:
        """Return what the engine says this worker runs while it does not, now and when last asked."""
        ...

    def outdated(self, versions: Collection[str]) -> list[str]:
        """Return the ids of queued workflows that only workers of other versions than these would take."""
        ...


class EndProcess(Protocol):
    """Kills the process of a worker when it runs on this machine and is not ourselves."""

    def __call__(self, worker_id: str, *, only_stopped: bool) -> bool:
        """Return whether it was killed; `only_stopped`: only if the process is frozen (SIGSTOP)."""
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
        self._outdated: set[str] = set()
        """Workflows that were when last asked."""

    def reap(self, dead: Iterable[str]) -> None:
        """Count the loss in the jobs of these workers, declared dead by the caller, and give their work back."""
        for worker_id in dead:
            log.warning("worker is dead", action="reap", worker_id=worker_id)
            # On this machine a frozen process would keep the device from its heir.
            self._end_process(worker_id, only_stopped=False)
            self._count(worker_id)
        self.rescue()

    def rescue(self) -> None:
        """Give back every workflow whose executor is not live."""
        for running in self._queues.running():
            if self._is_live(running.executor_id):
                continue
            # Another reaper may have been faster and the workflow be in good hands by now: look once more.
            if running not in self._queues.running():
                continue
            # Counted first: whoever takes the job next hides that its worker died, and one that kills its workers would
            # live for ever if the reaper were killed, or overtaken by another one, between the two.
            self._count(running.executor_id)
            if running.expired:
                self._queues.cancel(running.workflow_id)
            else:
                self._queues.resume(running.workflow_id, running.queue)

    def recall(self) -> None:
        """Give back what is in nobody's hands though no worker has died.

        A connection that broke while this worker took a workflow leaves it with the workflow and unaware of it. And
        workflows of a version whose last worker was replaced by one of another wait for ever: their jobs begin anew.
        """
        for running in self._queues.adrift():
            log.warning("workflow is adrift", action="recall", workflow_id=running.workflow_id)
            self._queues.resume(running.workflow_id, running.queue)
        with self._database.read() as session:
            versions = Workers(session).versions()
        # A worker from before versions were written down may be of any.
        outdated = set() if "" in versions else set(self._queues.outdated(versions))
        for workflow_id in sorted(outdated & self._outdated):
            self._begin_anew(workflow_id)
        self._outdated = outdated

    def _begin_anew(self, workflow_id: str) -> None:
        log.warning("version is gone", action="recall", workflow_id=workflow_id)
        with self._database.write() as session:
            row = Jobs(session).of_workflow(workflow_id)
            if row is not None and row.status in ACTIVE and not self._abandoned(session, row):
                return
            if row is not None and Jobs(session).begin_anew(row.id):
                Artifacts(session).forget(row.id)
                text = (
                    "Begun anew: the service was replaced by a version that cannot continue what the old one had done."
                )
                Events(session).append(row.id, "log", {"text": text})
        self._queues.cancel(workflow_id)

    def reconcile(self) -> None:
        """End jobs that nobody will end: cancelled with no live worker, or lost by the engine."""
        with self._database.read() as session:
            # The newest of each status: however many are queued, those that run are looked at.
            rows = [row for status in ACTIVE for row in Jobs(session).page(status=[status], limit=PAGE).rows]
            abandoned = {row.id for row in rows if self._abandoned(session, row)}
        statuses = self._queues.statuses([row.workflow_id for row in rows])
        for row in rows:
            status = statuses.get(row.workflow_id, "missing")
            # Of a workflow that broke, even its worker knows no more.
            if row.id not in abandoned and status != BROKEN:
                continue
            if row.status == JobStatus.CANCELLING or status == "CANCELLED":
                self._end(row, None)
            elif status not in ("ENQUEUED", "DELAYED", "PENDING"):
                text = f"The job engine ended the job's workflow as {status} and not the job."
                self._end(row, text, surely=status == BROKEN)

    def _end(self, seen: PruneJobRow, failure: str | None, *, surely: bool = False) -> None:
        with self._database.write() as session:
            row = session.get(PruneJobRow, seen.id, with_for_update=True)
            if row is None or row.workflow_id != seen.workflow_id or not (surely or self._abandoned(session, row)):
                return
            if failure is None:
                Jobs(session).finish_cancel(row.id)
            else:
                Jobs(session).fail(row.id, code="engine_error", detail=failure)

    def _count(self, worker_id: str) -> None:
        """Count a dead worker's loss in each of its jobs; once, however many reapers do so."""
        with self._database.write() as session:
            for row in Jobs(session).active_of_worker(worker_id):
                self._lose(session, row, worker_id)

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


def _live(session: Session, worker_id: str) -> bool:
    worker = Workers(session).get(worker_id)
    return worker is not None and worker.status == "live"
