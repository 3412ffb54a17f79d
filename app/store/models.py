"""The tables. Wire words, wire units; JSON columns hold what the wire shows as objects."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.store.base import Base, UtcDateTime, database_now
from secateur.schemas import JobStatus

Id = String(64)
Sha256 = String(64)
# SQLite only counts an INTEGER PRIMARY KEY up by itself, never a BIGINT one.
Counter = BigInteger().with_variant(Integer, "sqlite")


class ModelRow(Base):
    """An uploaded network."""

    __tablename__ = "model"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    arch: Mapped[str] = mapped_column(String(200))
    sha256: Mapped[str] = mapped_column(Sha256, index=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    num_parameters: Mapped[int] = mapped_column(BigInteger)
    num_outputs: Mapped[int]
    input_shape: Mapped[list[int] | None] = mapped_column(JSON(none_as_null=True))
    class_names: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now())


class DatasetRow(Base):
    """An uploaded ImageFolder zip."""

    __tablename__ = "dataset"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    sha256: Mapped[str] = mapped_column(Sha256, index=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    image_size: Mapped[int]
    mean: Mapped[list[float]] = mapped_column(JSON)
    std: Mapped[list[float]] = mapped_column(JSON)
    classes: Mapped[list[str]] = mapped_column(JSON)
    num_images: Mapped[dict[str, int]] = mapped_column(JSON)
    num_skipped: Mapped[int]
    skipped: Mapped[list[str]] = mapped_column(JSON)
    class_map: Mapped[dict[str, int] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now())


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
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now())


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


class LutRow(Base):
    """The latency table of one profile of a device as its newest version has it; the entries are a JSON blob."""

    __tablename__ = "lut"
    __table_args__ = (UniqueConstraint("device_id", "fingerprint"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    device_id: Mapped[str] = mapped_column(ForeignKey("device.id"))
    fingerprint: Mapped[str] = mapped_column(String(64))
    profile: Mapped[dict[str, Any]] = mapped_column(JSON)
    blob_sha256: Mapped[str] = mapped_column(Sha256, index=True)
    num_entries: Mapped[int]
    num_signatures: Mapped[int]
    step: Mapped[int]
    noise: Mapped[float]
    seconds: Mapped[float]
    version: Mapped[int] = mapped_column(default=0)
    """Number of the newest version."""
    published_version: Mapped[int | None]
    imported: Mapped[bool] = mapped_column(default=False)
    """True when the first version was imported."""
    coarse: Mapped[bool] = mapped_column(default=False)
    num_pairs: Mapped[int] = mapped_column(default=0)
    residual: Mapped[float | None]
    """Median of |predicted / measured - 1| over the table's pairs."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now())
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now())


class LutVersionRow(Base):
    """One state of a table; never changed."""

    __tablename__ = "lut_version"

    lut_id: Mapped[str] = mapped_column(ForeignKey("lut.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    blob_sha256: Mapped[str] = mapped_column(Sha256, index=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    num_entries: Mapped[int]
    num_signatures: Mapped[int]
    source: Mapped[str] = mapped_column(String(16))
    """`job` or `import`."""
    job_id: Mapped[str | None] = mapped_column(Id)
    name: Mapped[str] = mapped_column(String(200), default="")
    """What the importer called the file."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now())


class LutPairRow(Base):
    """What a table said of the network a job made, and what was measured."""

    __tablename__ = "lut_pair"

    lut_id: Mapped[str] = mapped_column(ForeignKey("lut.id", ondelete="CASCADE"), primary_key=True)
    job_id: Mapped[str] = mapped_column(Id, primary_key=True)
    version: Mapped[int]
    predicted_ms: Mapped[float]
    measured_ms: Mapped[float]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now())


class LutFileRow(Base):
    """A picture or another form of a version, made when it was first asked for."""

    __tablename__ = "lut_file"

    lut_id: Mapped[str] = mapped_column(ForeignKey("lut.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    made_of: Mapped[str] = mapped_column(String(100))
    """What the file shows: the version, and for the residual's picture the pairs; another value makes it stale."""
    sha256: Mapped[str] = mapped_column(Sha256, index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now())


class PruneJobRow(Base):
    """A job of the workers; `spec` is the body it was submitted with."""

    __tablename__ = "prune_job"
    __table_args__ = (
        CheckConstraint(f"status IN ({', '.join(repr(s.value) for s in JobStatus)})", name="status"),
        CheckConstraint("outcome IN ('budget_met', 'budget_missed', 'infeasible')", name="outcome"),
        Index(None, "status", "id"),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
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
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now())
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


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
    status: Mapped[str] = mapped_column(String(16), default="live")
    started_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now())
    heartbeat_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now())


class IdempotencyKeyRow(Base):
    """The first answer to a request that carried an `Idempotency-Key`."""

    __tablename__ = "idempotency_key"

    route: Mapped[str] = mapped_column(String(100), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    body_sha256: Mapped[str] = mapped_column(Sha256)
    status: Mapped[int]
    location: Mapped[str] = mapped_column(Text)
    body: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now(), index=True)
