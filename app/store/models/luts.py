"""Latency tables and what hangs on them."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.store.base import Base, Id, Sha256, UtcDateTime, database_now


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
    drift: Mapped[float] = mapped_column(default=0.0)
    interpolation: Mapped[float] = mapped_column(default=0.0)
    calibration_residual: Mapped[float] = mapped_column(default=0.0)
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
