"""When a job joins its queue: at once, when the jobs it waits for have succeeded, or never."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy.orm import Session

from app.queue import AGENTS_QUEUE, Queue, device_queue
from app.store.models import DeviceRow, PruneJobRow
from app.store.repositories import Devices, Jobs, Turns, Waits
from app.store.sessions import Database

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Joining:
    """A job that `Jobs.new` has made, and that is to be stored and queued."""

    row: PruneJobRow
    device: DeviceRow
    after: Sequence[str] = ()
    """Jobs that it waits for."""


def submit(session: Session, queue: Queue, jobs: Collection[Joining]) -> None:
    """Insert the jobs and queue them in this transaction, in order; those that have jobs to wait for wait."""
    at_once = [job for job in jobs if not job.after]
    for job in at_once:
        _place(job.row, job.device)
    Turns(session).give([job.row for job in at_once])
    Jobs(session).insert([job.row for job in jobs])
    for job in jobs:
        if job.after:
            schedule(session, queue, job.row, after=job.after)
        else:
            _enqueue(session, queue, job.row)


def schedule(session: Session, queue: Queue, row: PruneJobRow, *, after: Sequence[str] = ()) -> None:
    """Queue a stored or retried job in this transaction, or let it wait for the jobs in `after` and those it waited for."""
    waits = Waits(session)
    waits.add(row.id, after)
    if not _settle(session, queue, row):
        waits.tell(row, waits.unmet(row.id))


def release(database: Database, queue: Queue) -> None:
    """Queue every job whose wait is over and fail those that wait in vain; any number of processes may do so at once."""
    with database.read() as session:
        due = Waits(session).due()
    for job_id in due:
        with database.write() as session:
            row = Waits(session).locked(job_id)
            if row is not None and _settle(session, queue, row):
                log.info("job waits no more", action="release", job_id=job_id, request_id=row.request_id)


def _settle(session: Session, queue: Queue, row: PruneJobRow) -> bool:
    """Queue the job or fail it; False while it has to wait."""
    unmet = Waits(session).unmet(row.id)
    lost = next((one for one in unmet if one.ended_at is not None), None)
    if lost is not None:
        detail = f"It was to run after {lost.id}, which is {lost.status}. Retry that one, then this one."
        return Jobs(session).fail(row.id, code="dependency_failed", detail=detail)
    if unmet:
        return False
    with session.no_autoflush:  # one update, and not one for each thing that is looked up meanwhile
        _place(row, Devices(session).get(row.device_id))
        Turns(session).give([row])
    session.flush()
    _enqueue(session, queue, row)
    return True


def _place(row: PruneJobRow, device: DeviceRow | None) -> None:
    """Give the job its queue."""
    row.queue = AGENTS_QUEUE if device and device.profiles else device_queue(row.device_id)
    row.phase = None


def _enqueue(session: Session, queue: Queue, row: PruneJobRow) -> None:
    assert row.turn is not None
    queue.enqueue_prune(
        session, job_id=row.id, workflow_id=row.workflow_id, queue=row.queue, priority=row.priority, turn=row.turn
    )
