"""Who may do what: projects, their keys, and what was done with them."""

from datetime import datetime

from sqlalchemy import JSON, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.store.base import Base, Counter, Id, Sha256, UtcDateTime, database_now

DEFAULT_PROJECT = "default"
"""The project that is always there; everything belongs to it while nobody is asked for a key."""


class ProjectRow(Base):
    """A team: it sees its own models, datasets and jobs, and nobody else's."""

    __tablename__ = "project"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    limits: Mapped[dict[str, int | None]] = mapped_column(JSON)
    """What differs from the service's own limits."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now())


class ApiKeyRow(Base):
    """A key, of which only the hash is kept."""

    __tablename__ = "api_key"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    prefix: Mapped[str] = mapped_column(String(16), unique=True)
    """What the key begins with, by which people and we find it."""
    sha256: Mapped[str] = mapped_column(Sha256)
    scopes: Mapped[list[str]] = mapped_column(JSON)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """To the minute: not every request writes."""
    created_by: Mapped[str | None] = mapped_column(Id, index=True)
    """The key that made it; null for one made with access to the database."""
    derived: Mapped[bool] = mapped_column(default=False)
    """True where it ends with the key that made it: all but those that administrators make."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now())


class AuditRow(Base):
    """One request that changed something or was refused. Ids of keys and projects stay when those are gone."""

    __tablename__ = "audit"
    __table_args__ = (Index(None, "project_id", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(Counter, primary_key=True, autoincrement=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now())
    key_id: Mapped[str | None] = mapped_column(Id, index=True)
    project_id: Mapped[str | None] = mapped_column(Id)
    """The key's."""
    action: Mapped[str] = mapped_column(String(200))
    object_kind: Mapped[str | None] = mapped_column(String(64))
    object_id: Mapped[str | None] = mapped_column(String(200), index=True)
    status: Mapped[int]
    request_id: Mapped[str] = mapped_column(String(64))
    address: Mapped[str] = mapped_column(String(64))
