"""What jobs wait for before they are queued."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import and_, exists, or_, select
from sqlalchemy.orm import Session, aliased

from app.store.models import DeviceRow, JobWaitRow, PruneJobRow
from app.store.repositories.events import Events
from app.store.repositories.jobs import ACTIVE, Jobs
from app.store.repositories.turns import QUEUED
from secateur.schemas import JobStatus

WAITING = "waiting"
_LOST = (JobStatus.FAILED, JobStatus.CANCELLED)


class Waits:
    """The `job_wait` table."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, job_id: str, needs: Sequence[str], *, must_succeed: bool = True) -> None:
        """Let the job wait for these jobs, which must exist."""
        if not needs:
            return
        known = set(self._session.scalars(select(JobWaitRow.needs_id).where(JobWaitRow.job_id == job_id)))
        for needs_id in dict.fromkeys(needs):
            if needs_id not in known:
                self._session.add(JobWaitRow(job_id=job_id, needs_id=needs_id, must_succeed=must_succeed))
        self._session.flush()

    def unmet(self, job_id: str) -> list[PruneJobRow]:
        """The jobs that it waits for and that have not ended as they must, oldest first."""
        lost = and_(JobWaitRow.must_succeed, PruneJobRow.status.in_(_LOST))
        query = (
            select(PruneJobRow)
            .join(JobWaitRow, JobWaitRow.needs_id == PruneJobRow.id)
            .where(JobWaitRow.job_id == job_id, or_(PruneJobRow.status.in_(ACTIVE), lost))
            .order_by(PruneJobRow.created_at, PruneJobRow.id)
        )
        return list(self._session.scalars(query))

    def due(self, limit: int = 100) -> list[str]:
        """Ids of waiting jobs with nothing to wait for any more, or with something that will never come."""
        needed = aliased(PruneJobRow)
        wait = and_(JobWaitRow.job_id == PruneJobRow.id, needed.id == JobWaitRow.needs_id)
        query = (
            select(PruneJobRow.id)
            .where(
                QUEUED,
                PruneJobRow.turn.is_(None),
                or_(
                    ~exists().where(wait, needed.status.in_(ACTIVE)),
                    exists().where(wait, JobWaitRow.must_succeed, needed.status.in_(_LOST)),
                ),
            )
            .order_by(PruneJobRow.id)
            .limit(limit)
        )
        return list(self._session.scalars(query))

    def locked(self, job_id: str) -> PruneJobRow | None:
        """The job, locked, if it waits and nobody else is at it; else None."""
        query = (
            select(PruneJobRow)
            .where(PruneJobRow.id == job_id, QUEUED, PruneJobRow.turn.is_(None))
            .with_for_update(skip_locked=True)
        )
        return self._session.scalar(query)

    def measuring(self, row: PruneJobRow) -> PruneJobRow | None:
        """The running build that measures a table the job needs, or None."""
        builds = select(PruneJobRow).where(
            PruneJobRow.kind == "lut_build", PruneJobRow.status == JobStatus.RUNNING, PruneJobRow.id != row.id
        )
        wanted = [_table({**row.spec, "device": row.device_id}), *(_table(one) for one in row.spec.get("also", ()))]
        for build in self._session.scalars(builds.order_by(PruneJobRow.id)):
            if self._named(_table({**build.spec, "device": build.device_id})) in map(self._named, wanted):
                return build
        return None

    def defer(self, row: PruneJobRow, needs: PruneJobRow) -> None:
        """Take a queued job off its queue until `needs` has ended, however it ends."""
        self.add(row.id, [needs.id], must_succeed=False)
        Jobs(self._session).unqueue(row)
        self.tell(row, [needs])

    def tell(self, row: PruneJobRow, needs: Sequence[PruneJobRow]) -> None:
        """Say in the job's history what it waits for."""
        row.phase = WAITING
        events = Events(self._session)
        events.append(row.id, "phase", {"phase": WAITING})
        for one in needs:
            if one.project_id != row.project_id:
                events.append(row.id, "log", {"text": "Waiting for a table build of another project to end."})
                continue
            what = "the table build" if one.kind == "lut_build" else "the job"
            events.append(row.id, "log", {"text": f"Waiting for {what} {one.id} to end.", "needs": one.id})

    def _named(self, table: Mapping[str, Any]) -> dict[str, Any]:
        """The table with the device's own runtime where none is named."""
        device = self._session.get(DeviceRow, table["device"])
        return {**table, "runtime": table["runtime"] or (device.runtime if device else None)}


def _table(wanted: Mapping[str, Any]) -> dict[str, Any]:
    return {name: wanted.get(name) for name in ("device", "runtime", "threads", "batch")}
