"""Who did what, and who was refused: rows are added and read, never changed."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from app.store.models import AuditRow
from app.store.repositories.pages import RowPage, newest_first

# Around the unit of work, which takes longer than the database.
_ADD = insert(AuditRow.__table__)  # type: ignore[arg-type]


class Audit:
    """The `audit` table."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(
        self,
        *,
        action: str,
        status: int,
        request_id: str,
        address: str,
        key_id: str | None = None,
        project_id: str | None = None,
        object_kind: str | None = None,
        object_id: str | None = None,
    ) -> None:
        """Append a row."""
        values = {
            "action": action[:200],
            "status": status,
            "request_id": request_id[:64],
            "address": address[:64],
            "key_id": key_id,
            "project_id": project_id,
            "object_kind": object_kind,
            "object_id": object_id and object_id[:200],
        }
        self._session.execute(_ADD, values)

    def page(self, *, wanted: Mapping[str, Any], before: str | None = None, limit: int = 50) -> RowPage[AuditRow]:
        """Newest first, optionally only rows with the `wanted` values of columns; `before` is an id."""
        query = select(AuditRow).filter_by(**wanted)
        if before is not None:
            query = query.where(AuditRow.id < (int(before) if before.isdecimal() and len(before) < 19 else 0))
        return newest_first(self._session, query, AuditRow.id, before=None, limit=limit)
