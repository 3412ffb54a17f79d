"""Whose a job is: what keeps a worker from writing about a job that is not, or no longer, its own."""

import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy.exc import DBAPIError

from app.store.blobs import StoreUnavailable
from app.store.disk import is_full
from app.store.models import PruneJobRow
from secateur.schemas import JobStatus
from workers.view import JobView

DATABASE_PATIENCE_S = 60.0
"""Longer than `worker_cut_off_s` may be: a worker that is cut off ends, which its job survives, before a write gives up."""

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


class Fenced(Exception):
    """The job belongs to another worker by now, or has ended: stop, and write nothing."""


class JobCancelled(Exception):
    """The user cancelled the job."""


class TimedOut(Exception):
    """The job has run for longer than its submitter allowed."""


def is_away(error: DBAPIError) -> bool:
    """Whether the database cannot be reached, for now."""
    # Before SQLAlchemy 2 or over a new connection a dead server shows as a plain OperationalError.
    lost = error.connection_invalidated or type(error).__name__ == "OperationalError"
    return bool(lost and not is_full(error))


def passes(error: Exception) -> bool:
    """Whether the same may go well later: there is no room, no database or no bucket, for now."""
    away = isinstance(error, DBAPIError) and is_away(error)
    return away or isinstance(error, StoreUnavailable) or is_full(error)


def patient(write: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Repeat a transaction while the database or the bucket is away: a restart of either is no reason to lose a step."""

    def repeat(journal: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        deadline = time.monotonic() + DATABASE_PATIENCE_S
        while True:
            try:
                return write(journal, *args, **kwargs)
            except (DBAPIError, StoreUnavailable) as error:
                if (isinstance(error, DBAPIError) and not is_away(error)) or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    return repeat


def fence(row: PruneJobRow | None, job: JobView, worker_id: str) -> None:
    """Raise Fenced or JobCancelled unless the job is running and this worker's."""
    if row is None or row.workflow_id != job.workflow_id:
        raise Fenced(job.id)
    if row.status in (JobStatus.CANCELLING, JobStatus.CANCELLED):
        raise JobCancelled(job.id)
    # The attempt tells two executions in one worker apart: the engine may have given it a job that it had already.
    if (row.worker_id, row.attempt) != (worker_id, job.attempt) or row.status != JobStatus.RUNNING:
        raise Fenced(job.id)
