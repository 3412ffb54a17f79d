"""What is measured on, by whom, and what is to be measured."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.store.base import Base, Id, Sha256, UtcDateTime, database_now


class DeviceRow(Base):
    """A device that workers or agents measure on, or that has tables from elsewhere; its id is the queue's name after
    `device:`."""

    __tablename__ = "device"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    hardware: Mapped[str] = mapped_column(String(200))
    runtime: Mapped[str] = mapped_column(String(64))
    runtime_version: Mapped[str] = mapped_column(String(64))
    profiles: Mapped[list[dict[str, Any]] | None] = mapped_column(JSON(none_as_null=True))
    """What its agents measure in, one profile a runtime; null for a device without agents."""
    last_seen_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When an agent of it was last heard of."""
    project_id: Mapped[str | None] = mapped_column(ForeignKey("project.id"))
    """The project whose agents it has: no other project's agent may take its name, and with it others' networks."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now())


class WorkerRow(Base):
    """One boot of one worker process."""

    __tablename__ = "worker"
    __table_args__ = (
        CheckConstraint("status IN ('live', 'stopped', 'dead')", name="status"),
        Index(None, "status", "heartbeat_at"),
    )

    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    """`<host>/<slot>:<boot uuid>`; never used twice."""
    slot: Mapped[str] = mapped_column(String(160), index=True)
    """`<host>/<slot>`."""
    device_id: Mapped[str] = mapped_column(Id)
    version: Mapped[str] = mapped_column(Id, default="")
    """`queue_version` of the workflows that it takes; empty for a worker from before this was written down."""
    status: Mapped[str] = mapped_column(String(16), default="live")
    started_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now())
    heartbeat_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now())


class MeasurementRow(Base):
    """What a step of a job wants measured on a device that has agents.

    It counts only while its job runs the workflow that asked: there is no status for one that nobody wants any more.
    """

    __tablename__ = "measurement"
    __table_args__ = (
        CheckConstraint("status IN ('queued', 'leased', 'done', 'failed')", name="status"),
        UniqueConstraint("workflow_id", "step", "number"),
        Index(None, "device_id", "status", "id"),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    device_id: Mapped[str] = mapped_column(Id)
    job_id: Mapped[str] = mapped_column(ForeignKey("prune_job.id", ondelete="CASCADE"), index=True)
    workflow_id: Mapped[str] = mapped_column(String(128))
    step: Mapped[str] = mapped_column(String(64))
    number: Mapped[int]
    """Place among the questions of one run of the step."""
    kind: Mapped[str] = mapped_column(String(16))
    digest: Mapped[str] = mapped_column(Sha256)
    """SHA-256 of the question: a step that is run again gets the answer to the same question."""
    profile: Mapped[dict[str, Any]] = mapped_column(JSON)
    payload: Mapped[dict[str, Any]] = mapped_column(JSON)
    files: Mapped[list[str]] = mapped_column(JSON)
    """SHA-256 of the networks to be timed; the job's hidden artifacts keep them."""
    status: Mapped[str] = mapped_column(String(16), default="queued")
    """queued -> leased -> done or failed; leased -> leased (to another, when the lease has run out) or queued."""
    agent_id: Mapped[str | None] = mapped_column(Id)
    leased_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    num_lost: Mapped[int] = mapped_column(default=0)
    """Leases that ran out and went to another agent."""
    progress: Mapped[float] = mapped_column(default=0.0)
    seconds_left: Mapped[float | None]
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """`step`, `table` or `networks` once it is done; before that the part of a `table` that is there."""
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now())
