"""Jobs, their history and their files."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, Index, String, TextClause, text
from sqlalchemy.orm import Mapped, mapped_column

from app.store.base import Base, Counter, Id, Sha256, UtcDateTime, database_now
from secateur.schemas import JobStatus

_QUEUED = text("status = 'queued'")
_WAITING = text("status = 'queued' AND turn IS NULL")


def _partial(name: str, *columns: str, where: TextClause) -> Index:
    return Index(name, *columns, postgresql_where=where, sqlite_where=where)


class PruneJobRow(Base):
    """A job of the workers; `spec` is the body it was submitted with."""

    __tablename__ = "prune_job"
    __table_args__ = (
        CheckConstraint(f"status IN ({', '.join(repr(s.value) for s in JobStatus)})", name="status"),
        CheckConstraint("outcome IN ('budget_met', 'budget_missed', 'infeasible')", name="outcome"),
        Index(None, "status", "id"),
        Index(None, "project_id", "status", "id"),
        Index(None, "ended_at"),
        _partial("ix_prune_job_turn", "queue", "priority", "turn", where=_QUEUED),
        _partial("ix_prune_job_turn_of_submitter", "queue", "priority", "submitter", "turn", where=_QUEUED),
        _partial("ix_prune_job_waiting", "id", where=_WAITING),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"))
    kind: Mapped[str] = mapped_column(String(16), default="prune")
    """`prune`, or `lut_build` for a job that measures a table and prunes nothing."""
    name: Mapped[str] = mapped_column(String(200))
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    model_id: Mapped[str | None] = mapped_column(ForeignKey("model.id", ondelete="SET NULL"), index=True)
    dataset_id: Mapped[str | None] = mapped_column(ForeignKey("dataset.id", ondelete="SET NULL"), index=True)
    device_id: Mapped[str] = mapped_column(Id)
    status: Mapped[str] = mapped_column(String(16), default=JobStatus.QUEUED.value)
    phase: Mapped[str | None] = mapped_column(String(64))
    progress: Mapped[float] = mapped_column(default=0.0)
    outcome: Mapped[str | None] = mapped_column(String(32))
    attempt: Mapped[int] = mapped_column(default=0)
    """How often a worker began or took over the job."""
    num_lost: Mapped[int] = mapped_column(default=0)
    """Workers lost to the job since it was last queued by a user."""
    workflow_id: Mapped[str] = mapped_column(String(128), unique=True)
    """Id of the durable workflow that runs the job; a retry gets a new one."""
    worker_id: Mapped[str | None] = mapped_column(String(200), index=True)
    summary: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    failure: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    tables: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    """Latency tables the job uses: `name` of its file, `lut_id`, `version`."""
    submitter: Mapped[str] = mapped_column(Id, default="")
    """Who takes turns with other submitters."""
    priority: Mapped[int] = mapped_column(default=0)
    queue: Mapped[str] = mapped_column(String(128), default="")
    """Queue of the engine it was put on last."""
    turn: Mapped[int | None] = mapped_column(BigInteger)
    """Place on its queue among jobs of its priority; null while it waits for other jobs (`job_wait`) and is on no queue."""
    request_id: Mapped[str] = mapped_column(Id, default="")
    """Of the request that submitted it."""
    traceparent: Mapped[str] = mapped_column(Id, default="")
    """W3C trace context of that request; empty where it had none."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now())
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class JobWaitRow(Base):
    """A job that another one waits for."""

    __tablename__ = "job_wait"

    job_id: Mapped[str] = mapped_column(ForeignKey("prune_job.id", ondelete="CASCADE"), primary_key=True)
    needs_id: Mapped[str] = mapped_column(ForeignKey("prune_job.id", ondelete="CASCADE"), primary_key=True, index=True)
    must_succeed: Mapped[bool] = mapped_column(default=True)
    """False: its end is enough, however it comes (a build that measures the table the job needs)."""


class JobEventRow(Base):
    """One line of a job's history."""

    __tablename__ = "job_event"
    __table_args__ = (Index(None, "job_id", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(Counter, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("prune_job.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(String(32))
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now())


class JobArtifactRow(Base):
    """A file a job left."""

    __tablename__ = "job_artifact"

    job_id: Mapped[str] = mapped_column(ForeignKey("prune_job.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    sha256: Mapped[str] = mapped_column(Sha256, index=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    media_type: Mapped[str] = mapped_column(String(100))
    hidden: Mapped[bool] = mapped_column(default=False)
    """True for what only the job itself needs again: checkpoints, results of finished steps."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now())
