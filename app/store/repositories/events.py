"""The history of a job."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.store.models import JobEventRow, PruneJobRow


class Events:
    """The `job_event` table."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def append(self, job_id: str, kind: str, data: Mapping[str, Any]) -> JobEventRow:
        """Add a line; raises LookupError when there is no such job.

        The job's row is locked first: ids of one job then become visible in their order, and a reader that
        continues after the last id it saw misses nothing.
        """
        query = select(PruneJobRow.id).where(PruneJobRow.id == job_id).with_for_update()
        if self._session.scalar(query) is None:
            raise LookupError(f"no job {job_id}")
        row = JobEventRow(job_id=job_id, kind=kind, data=dict(data))
        self._session.add(row)
        self._session.flush()
        return row

    def after(self, job_id: str, after_id: int = 0, *, limit: int = 500) -> list[JobEventRow]:
        """Lines with an id above `after_id`, oldest first."""
        query = (
            select(JobEventRow)
            .where(JobEventRow.job_id == job_id, JobEventRow.id > after_id)
            .order_by(JobEventRow.id)
            .limit(limit)
        )
        return list(self._session.scalars(query))
