"""Figures of the whole service, for whoever watches it: a few small queries, whatever the number of jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, SQLColumnExpression, case, func, select, union
from sqlalchemy.orm import Session

from app.store.base import database_now
from app.store.models import (
    DatasetRow,
    DeviceRow,
    JobArtifactRow,
    JobEventRow,
    LutRow,
    LutVersionRow,
    MeasurementRow,
    ModelRow,
    PruneJobRow,
    WorkerRow,
)
from secateur.schemas import JobStatus

RECENT_S = 3600.0
"""A job that ended within this time counts among the phases."""
MOST_RECENT = 500


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The service at one moment. Keys are label values, in the order of the metric's labels."""

    jobs: Mapping[tuple[str, str], int]
    """By kind and status."""
    oldest_queued_s: Mapping[str, float]
    """By device."""
    workers: Mapping[str, int]
    """By status: `live`, `silent`, `stopped`, `dead`."""
    num_agents_online: int
    measurements: Mapping[str, int]
    stored_bytes: int
    num_tables: int
    num_table_entries: int
    failures: Mapping[str, int]
    """By code."""
    outcomes: Mapping[str, int]
    phases: Mapping[tuple[str, str], Sequence[float]]
    """Seconds that jobs which ended lately spent in a phase, by kind and phase."""


class Figures:
    """Read-only counts over all tables."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def snapshot(self, *, worker_timeout_s: float, agent_lease_s: float) -> Snapshot:
        """Everything, as it is now; a live worker that was silent for `worker_timeout_s` counts as silent."""
        online = select(func.count()).where(DeviceRow.last_seen_at >= database_now(-agent_lease_s))
        tables = self._session.execute(select(func.count(), func.coalesce(func.sum(LutRow.num_entries), 0))).one()
        return Snapshot(
            jobs=self._jobs(),
            oldest_queued_s=self._oldest_queued_s(),
            workers=self._workers(worker_timeout_s),
            num_agents_online=self._session.scalar(online) or 0,
            measurements=self._count(MeasurementRow.status),
            stored_bytes=self._stored_bytes(),
            num_tables=tables[0],
            num_table_entries=tables[1],
            failures=self._count(PruneJobRow.failure["code"].as_string(), PruneJobRow.status == JobStatus.FAILED.value),
            outcomes=self._count(PruneJobRow.outcome, PruneJobRow.outcome.is_not(None)),
            phases=self._phases(),
        )

    def _jobs(self) -> dict[tuple[str, str], int]:
        query = select(PruneJobRow.kind, PruneJobRow.status, func.count())
        rows = self._session.execute(query.group_by(PruneJobRow.kind, PruneJobRow.status))
        return {(kind, status): count for kind, status, count in rows}

    def _oldest_queued_s(self) -> dict[str, float]:
        now = self._session.scalar(select(database_now()))
        assert isinstance(now, datetime)
        query = select(PruneJobRow.device_id, func.min(PruneJobRow.created_at))
        rows = self._session.execute(
            query.where(PruneJobRow.status == JobStatus.QUEUED.value).group_by(PruneJobRow.device_id)
        )
        return {device: (now - oldest).total_seconds() for device, oldest in rows}

    def _workers(self, timeout_s: float) -> dict[str, int]:
        silent = (WorkerRow.status == "live") & (WorkerRow.heartbeat_at < database_now(-timeout_s))
        return self._count(case((silent, "silent"), else_=WorkerRow.status))

    def _stored_bytes(self) -> int:
        """Every file once, however many rows name it."""
        files = union(
            select(ModelRow.sha256, ModelRow.size_bytes),
            select(DatasetRow.sha256, DatasetRow.size_bytes),
            select(JobArtifactRow.sha256, JobArtifactRow.size_bytes),
            select(LutVersionRow.blob_sha256, LutVersionRow.size_bytes),
        ).subquery()
        return int(self._session.scalar(select(func.coalesce(func.sum(files.c.size_bytes), 0))) or 0)

    def _phases(self) -> dict[tuple[str, str], list[float]]:
        ended = (
            select(PruneJobRow.id, PruneJobRow.kind, PruneJobRow.ended_at)
            .where(PruneJobRow.ended_at >= database_now(-RECENT_S))
            .order_by(PruneJobRow.ended_at.desc())
            .limit(MOST_RECENT)
            .subquery()
        )
        query = (
            select(ended.c.id, ended.c.kind, ended.c.ended_at, JobEventRow.data, JobEventRow.created_at)
            .join(JobEventRow, JobEventRow.job_id == ended.c.id)
            .where(JobEventRow.kind == "phase")
            .order_by(JobEventRow.job_id, JobEventRow.id)
        )
        rows = self._session.execute(query).all()
        found: dict[tuple[str, str], list[float]] = {}
        for row, after in zip(rows, [*rows[1:], None], strict=False):
            until = after.created_at if after is not None and after.id == row.id else row.ended_at
            found.setdefault((row.kind, row.data["phase"]), []).append((until - row.created_at).total_seconds())
        return found

    def _count(self, column: SQLColumnExpression[Any], *conditions: ColumnElement[bool]) -> dict[str, int]:
        value = func.coalesce(column, "")
        query = select(value, func.count()).where(*conditions).group_by(value)
        return {str(name): count for name, count in self._session.execute(query)}
