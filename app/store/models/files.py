"""Tables about files that no job or table names yet, and about who looks after them."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from app.store.base import Base, Id, Sha256, UtcDateTime, database_now


class BlobHoldRow(Base):
    """An upload that is being checked: its blob has no row yet and must not be swept away meanwhile."""

    __tablename__ = "blob_hold"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    sha256: Mapped[str] = mapped_column(Sha256, index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now(), index=True)


class UploadRow(Base):
    """A file that comes in several pieces; they lie in the store's spool under the id."""

    __tablename__ = "upload"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"), index=True)
    purpose: Mapped[str] = mapped_column(String(16))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    received_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    """Bytes that are on the disk for sure; whatever the file has beyond them does not count."""
    sha256: Mapped[str | None] = mapped_column(Sha256)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now())
    touched_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now(), index=True)


class LeaseRow(Base):
    """What one process at a time does."""

    __tablename__ = "lease"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    until: Mapped[datetime] = mapped_column(UtcDateTime)
