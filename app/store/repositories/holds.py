"""Which blobs something refers to, and which uploads are only being checked."""

import hashlib

from sqlalchemy import Connection, delete, exists, func, or_, select, union, update
from sqlalchemy.orm import Session

from app.store.base import database_now, new_id
from app.store.models import BlobHoldRow, DatasetRow, JobArtifactRow, LutFileRow, LutVersionRow, ModelRow

NAMING = (
    ModelRow.sha256,
    DatasetRow.sha256,
    LutVersionRow.blob_sha256,
    LutFileRow.sha256,
    JobArtifactRow.sha256,
    BlobHoldRow.sha256,
)
"""Every column that names a blob; the newest version of a table names the blob its `lut` row does."""

EVERYTHING = "*"
"""What a hold names that holds every blob."""


class Holds:
    """The `blob_hold` table, and every other column that names a blob."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, sha256: str) -> str:
        """Hold the blob until `release`; returns the id of the hold."""
        self.lock(sha256)
        row = BlobHoldRow(id=new_id("hld"), sha256=sha256)
        self._session.add(row)
        self._session.flush()
        return row.id

    def hold_everything(self) -> str:
        """Let no blob go until `release`; returns the id of the hold."""
        row = BlobHoldRow(id=new_id("hld"), sha256=EVERYTHING)
        self._session.add(row)
        self._session.flush()
        return row.id

    def renew(self, hold_id: str) -> None:
        """Say that whoever holds it lives."""
        self._session.execute(update(BlobHoldRow).where(BlobHoldRow.id == hold_id).values(created_at=database_now()))

    def everything_is_held(self) -> bool:
        """True while no blob may go."""
        return bool(self._session.scalar(select(exists().where(BlobHoldRow.sha256 == EVERYTHING))))

    def release(self, hold_id: str) -> None:
        """End a hold."""
        self._session.execute(delete(BlobHoldRow).where(BlobHoldRow.id == hold_id))

    def release_old(self, max_age_s: float) -> list[str]:
        """End holds whose process must have died; returns the SHA-256 of their blobs."""
        query = delete(BlobHoldRow).where(BlobHoldRow.created_at < database_now(-max_age_s))
        return sorted(set(self._session.scalars(query.returning(BlobHoldRow.sha256))) - {EVERYTHING})

    def lock(self, sha256: str) -> None:
        """Let nobody else hold or drop this blob until we commit. SQLite has one writer at a time anyway."""
        if self._session.get_bind().dialect.name == "postgresql":
            key = int.from_bytes(hashlib.sha256(b"blob " + sha256.encode()).digest()[:8], signed=True)
            self._session.execute(select(func.pg_advisory_xact_lock(key)))

    def is_referenced(self, sha256: str) -> bool:
        """True when a row or a hold needs the blob."""
        named = (exists().where(column == sha256) for column in NAMING)
        query = select(or_(*named, exists().where(BlobHoldRow.sha256 == EVERYTHING)))
        return bool(self._session.scalar(query))

    def release_all(self) -> None:
        """End every hold: their processes belong to another time or place."""
        self._session.execute(delete(BlobHoldRow))

    @staticmethod
    def named_on(connection: Connection) -> set[str]:
        """SHA-256 of every blob that a row, not a hold, names, as a connection of the caller's sees them."""
        return set(
            connection.scalars(union(*(select(column) for column in NAMING if column.class_ is not BlobHoldRow)))
        )

    def all_named(self) -> set[str]:
        """SHA-256 of every blob that a row, not a hold, names."""
        return self.named_on(self._session.connection())

    def all_referenced(self) -> set[str]:
        """SHA-256 of every blob a row or a hold needs."""
        return set(self._session.scalars(union(*(select(column) for column in NAMING)))) - {EVERYTHING}
