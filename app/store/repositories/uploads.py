"""Uploads in several pieces."""

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app.store.base import database_now, new_id
from app.store.models import UploadRow


class Uploads:
    """The `upload` table."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, *, project_id: str, purpose: str, size_bytes: int, sha256: str | None) -> UploadRow:
        """Insert an upload of which nothing has come yet."""
        row = UploadRow(id=new_id("upl"), project_id=project_id, purpose=purpose, size_bytes=size_bytes, sha256=sha256)
        self._session.add(row)
        self._session.flush()
        self._session.refresh(row)
        return row

    def get(self, upload_id: str, *, project_id: str | None) -> UploadRow | None:
        """The upload as it is now, or None; of any project for None."""
        row = self._session.get(UploadRow, upload_id, populate_existing=True)
        return row if row is not None and project_id in (None, row.project_id) else None

    def announced_bytes(self, project_id: str) -> int:
        """Bytes that the project's open uploads will have when they are complete."""
        query = select(func.coalesce(func.sum(UploadRow.size_bytes), 0)).where(UploadRow.project_id == project_id)
        return int(self._session.scalar(query) or 0)

    def advance(self, upload_id: str, received_bytes: int) -> bool:
        """Note how many bytes are on the disk; False when the upload was deleted meanwhile."""
        query = update(UploadRow).where(UploadRow.id == upload_id)
        values = {"received_bytes": received_bytes, "touched_at": database_now()}
        return self._session.scalar(query.values(**values).returning(UploadRow.id)) is not None

    def delete(self, upload_id: str) -> bool:
        """Forget the upload; False when there was none."""
        query = delete(UploadRow).where(UploadRow.id == upload_id)
        return self._session.scalar(query.returning(UploadRow.id)) is not None

    def delete_old(self, upload_id: str, max_age_s: float) -> bool:
        """Forget the upload unless something was added to it since."""
        query = delete(UploadRow).where(UploadRow.id == upload_id, UploadRow.touched_at < database_now(-max_age_s))
        return self._session.scalar(query.returning(UploadRow.id)) is not None

    def expired(self, max_age_s: float) -> list[str]:
        """Ids of uploads to which nothing was added for so long."""
        query = select(UploadRow.id).where(UploadRow.touched_at < database_now(-max_age_s))
        return list(self._session.scalars(query.order_by(UploadRow.id)))

    def all_ids(self) -> set[str]:
        """Ids of all uploads."""
        return set(self._session.scalars(select(UploadRow.id)))
