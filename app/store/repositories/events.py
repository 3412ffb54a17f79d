"""The history of a job."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import JSON, BigInteger, TableValuedAlias, and_, cast, func, insert, literal, or_, select
from sqlalchemy.orm import Session

from app.store.base import table_of
from app.store.models import JobEventRow, PruneJobRow
from secateur.schemas import JobStatus

_BEGIN = insert(table_of(JobEventRow))
_ADD = _BEGIN.returning(table_of(JobEventRow).c.id)
LAST = "last event"
"""Where a session's `info` has the columns of the event that was appended last."""
_ENDED = tuple(status for status in JobStatus if status.ended)


class Events:
    """The `job_event` table."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def append(self, job_id: str, kind: str, data: Mapping[str, Any], *, locked: bool = False) -> int:
        """Add a line and return its id; raises LookupError when there is no such job.

        The job's row is locked first, or has been (`locked`: this transaction has inserted or updated it): ids of one job
        then become visible in their order, and a reader that continues after the last id it saw misses nothing.
        """
        query = select(PruneJobRow.id).where(PruneJobRow.id == job_id).with_for_update()
        if not locked and self._session.scalar(query) is None:
            raise LookupError(f"no job {job_id}")
        line = {"job_id": job_id, "kind": kind, "data": dict(data)}
        event_id = int(self._session.execute(_ADD, line).scalar_one())
        self._session.info[LAST] = line | {"id": event_id}
        return event_id

    def begin(self, job_ids: Sequence[str], data: Mapping[str, Any]) -> None:
        """Add the first line, a status, of jobs that this transaction has inserted."""
        lines = [{"job_id": job_id, "kind": "status", "data": dict(data)} for job_id in job_ids]
        self._session.connection().execute(_BEGIN, lines)

    def after(self, job_id: str, after_id: int = 0, *, limit: int = 500) -> list[JobEventRow]:
        """Lines with an id above `after_id`, oldest first."""
        query = (
            select(JobEventRow)
            .where(JobEventRow.job_id == job_id, JobEventRow.id > after_id)
            .order_by(JobEventRow.id)
            .limit(limit)
        )
        return list(self._session.scalars(query))

    def after_each(self, positions: Mapping[str, int]) -> list[JobEventRow]:
        """Lines of many jobs, each above an id of its own, oldest first."""
        each = self._each(positions)
        newer = and_(JobEventRow.job_id == each.c.key, JobEventRow.id > cast(each.c.value, BigInteger))
        rows = self._session.scalars(select(JobEventRow).join(each, newer))
        return sorted(rows, key=lambda row: row.id)

    def over(self, job_ids: Mapping[str, Any]) -> set[str]:
        """Those of the keys that are jobs which have ended, or no jobs any more."""
        each = self._each(job_ids)
        query = select(each.c.key).outerjoin(PruneJobRow, PruneJobRow.id == each.c.key)
        return set(self._session.scalars(query.where(or_(PruneJobRow.id.is_(None), PruneJobRow.status.in_(_ENDED)))))

    def _each(self, values: Mapping[str, Any]) -> TableValuedAlias:
        """The mapping as a table of `key` and `value`: one parameter, so one statement, however many there are."""
        is_sqlite = self._session.get_bind().dialect.name == "sqlite"
        make = func.json_each if is_sqlite else func.json_each_text
        return make(literal(dict(values), JSON)).table_valued("key", "value")
