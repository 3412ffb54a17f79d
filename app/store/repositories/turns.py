"""Whose turn it is: places of jobs on their queues."""

from collections.abc import Sequence
from functools import cache
from itertools import groupby
from typing import Any

from sqlalchemy import JSON, Select, and_, bindparam, func, literal_column, select
from sqlalchemy.orm import Session

from app.store.models import PruneJobRow
from secateur.schemas import JobStatus

# Written out: of a parameter no plan that is kept can know that a partial index holds what is asked for, nor how few run.
QUEUED, _RUNNING = (
    PruneJobRow.status == literal_column(f"'{status.value}'") for status in (JobStatus.QUEUED, JobStatus.RUNNING)
)


class Turns:
    """The column `turn` of the `prune_job` table."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def give(self, rows: Sequence[PruneJobRow]) -> None:
        """Give jobs that join their queues a place there: behind their submitter's own, level with the first that waits.

        Start-time fair queueing: whoever has a thousand jobs waiting takes turns with who has one, and neither can
        overtake the other for ever. Several jobs of one submitter join in this order, whether they are stored yet or not.
        """
        for (queue, priority), joining in groupby(sorted(rows, key=_line), key=_line):
            some = list(joining)
            line = {"queue": queue, "priority": priority, "submitters": dict.fromkeys(row.submitter for row in some)}
            query = turns_query(self._session.get_bind().dialect.name)
            last: dict[str, int] = {}
            start = 0
            for submitter, own, first, given_back in self._session.execute(query, line):
                start = min((turn for turn in (first, given_back) if turn is not None), default=0)
                if own is not None:
                    last[submitter] = own
            for row in some:
                row.turn = last[row.submitter] = last[row.submitter] + 1 if row.submitter in last else start


def _line(row: PruneJobRow) -> tuple[str, int]:
    return row.queue, row.priority


@cache
def turns_query(dialect: str) -> Select[Any]:
    """Return the query for each of the submitters' last turn on a line, the first that waits there, and the first handed back.

    Its parameters: `queue`, `priority`, and `submitters`, an object whose keys they are.
    """
    peers = (PruneJobRow.queue == bindparam("queue"), PruneJobRow.priority == bindparam("priority"))
    # A job that a worker handed back is on its queue again, with the turn it had.
    # (Asked for nulls, the database may go through those of all jobs that wait.)
    back = and_(_RUNNING, func.coalesce(PruneJobRow.worker_id, "") == "")
    first, given_back = (
        select(func.min(PruneJobRow.turn)).where(one, *peers).scalar_subquery() for one in (QUEUED, back)
    )
    keys = func.json_each if dialect == "sqlite" else func.json_each_text
    each = keys(bindparam("submitters", type_=JSON)).table_valued("key")
    own = select(func.max(PruneJobRow.turn)).where(QUEUED, *peers, PruneJobRow.submitter == each.c.key)
    return select(each.c.key, own.correlate(each).scalar_subquery(), first, given_back)
