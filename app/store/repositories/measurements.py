"""What jobs want measured on devices with agents: asked once, leased by the database's clock, answered once."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Select, and_, delete, or_, select
from sqlalchemy.orm import Session

from app.store.base import database_now, new_id
from app.store.models import MeasurementRow, PruneJobRow
from secateur.schemas import JobStatus

MOST_LOST = 5
"""Agents that one measurement may cost before nobody is given it any more."""

_wanted = and_(
    PruneJobRow.id == MeasurementRow.job_id,
    PruneJobRow.workflow_id == MeasurementRow.workflow_id,
    PruneJobRow.status == JobStatus.RUNNING,
)


class Measurements:
    """The `measurement` table."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, measurement_id: str) -> MeasurementRow | None:
        """The measurement as it is now, or None."""
        return self._session.get(MeasurementRow, measurement_id, populate_existing=True)

    def ask(
        self,
        job: PruneJobRow,
        step: str,
        number: int,
        *,
        digest: str,
        device_id: str,
        kind: str,
        profile: Mapping[str, Any],
        payload: Mapping[str, Any],
        files: Sequence[str],
    ) -> MeasurementRow:
        """Return the measurement of this question; one that an earlier run of the step asked stays, another one goes.

        Questions of an earlier workflow of the job go too: a retry measures anew.
        """
        mine = MeasurementRow.job_id == job.id
        self._session.execute(delete(MeasurementRow).where(mine, MeasurementRow.workflow_id != job.workflow_id))
        keys = {"workflow_id": job.workflow_id, "step": step, "number": number}
        row = self._session.scalar(select(MeasurementRow).filter_by(**keys))
        if row is not None and row.digest == digest:
            return row
        if row is not None:
            self._session.delete(row)
            self._session.flush()
        row = MeasurementRow(
            id=new_id("msr"), job_id=job.id, digest=digest, device_id=device_id, kind=kind, profile=dict(profile),
            payload=dict(payload), files=list(files), **keys,
        )  # fmt: skip
        self._session.add(row)
        self._session.flush()
        return row

    def is_waiting(self, device_id: str, agent_id: str) -> bool:
        """True when `lease` would find something now."""
        return self._session.scalar(self._free(device_id, agent_id)) is not None

    def lease(self, device_id: str, agent_id: str, lease_s: float) -> MeasurementRow | None:
        """Lease the oldest measurement that is free; an agent that already holds one has lost the answer and gets it again.

        One whose lease went through `MOST_LOST` agents fails instead.
        """
        query = self._free(device_id, agent_id).with_for_update(of=MeasurementRow, skip_locked=True)
        while row := self._session.scalar(query):
            if row.status == "leased" and row.agent_id != agent_id:
                row.num_lost += 1
            if row.num_lost < MOST_LOST:
                row.status, row.agent_id = "leased", agent_id
                row.leased_until = database_now(lease_s)
                self._session.flush()
                return row
            row.status, row.error = "failed", f"{row.num_lost} agents were lost while they measured it."
            self._session.flush()
        return None

    def held(self, measurement_id: str, agent_id: str) -> MeasurementRow | None:
        """The measurement, locked, if this agent is the last it was leased to and its job still wants it; else None.

        Also after the lease has run out, while nobody else has it, and when it is done.
        """
        query = (
            select(MeasurementRow)
            .join(PruneJobRow, _wanted)
            .where(MeasurementRow.id == measurement_id, MeasurementRow.agent_id == agent_id)
            .with_for_update(of=MeasurementRow)
        )
        row = self._session.scalar(query)
        return row if row is not None and row.status != "queued" else None

    def renew(self, row: MeasurementRow, lease_s: float, *, progress: float, seconds_left: float | None) -> None:
        """Note a sign of life of the agent that holds it."""
        row.leased_until = database_now(lease_s)
        row.progress, row.seconds_left = max(row.progress, progress), seconds_left

    def keep(self, row: MeasurementRow, table: Mapping[str, Any]) -> None:
        """Keep the part of a table that is there, for whoever goes on."""
        row.result = {"table": dict(table)}

    def release(self, row: MeasurementRow) -> None:
        """Let somebody else have it at once."""
        row.status, row.agent_id, row.leased_until = "queued", None, None

    def finish(self, row: MeasurementRow, result: Mapping[str, Any] | None, error: str | None) -> None:
        """Store the answer, or why there is none."""
        row.status, row.error = ("failed", error) if error else ("done", None)
        row.result, row.progress, row.seconds_left = dict(result) if result else None, 1.0, None

    def forget(self, workflow_id: str, step: str) -> None:
        """Delete what a step that is done has asked."""
        query = delete(MeasurementRow).where(MeasurementRow.workflow_id == workflow_id, MeasurementRow.step == step)
        self._session.execute(query)

    def _free(self, device_id: str, agent_id: str) -> Select[MeasurementRow]:
        lost = or_(MeasurementRow.leased_until < database_now(), MeasurementRow.agent_id == agent_id)
        return (
            select(MeasurementRow)
            .join(PruneJobRow, _wanted)
            .where(
                MeasurementRow.device_id == device_id,
                or_(MeasurementRow.status == "queued", and_(MeasurementRow.status == "leased", lost)),
            )
            .order_by(MeasurementRow.id)
            .limit(1)
        )
