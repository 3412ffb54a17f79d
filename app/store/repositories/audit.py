"""Who did what, and who was refused: rows are added and read, never changed, and go when they are old."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

from sqlalchemy import bindparam, delete, exists, func, insert, select
from sqlalchemy.orm import Session

from app.store.base import database_now, table_of
from app.store.models import ApiKeyRow, AuditRow
from app.store.repositories.keys import LIVE
from app.store.repositories.pages import RowPage, newest_first

_TABLE = table_of(AuditRow)
_ADD_ALL = insert(_TABLE)
_ADD = _ADD_ALL.returning(_TABLE.c.id)
_TOLD = [column for column in _TABLE.columns if column.name not in ("id", "created_at")]
_ADD_WHILE_LIVE = _ADD.from_select(
    _TOLD,
    select(*(bindparam(column.name, type_=column.type) for column in _TOLD)).where(
        exists().where(ApiKeyRow.id == bindparam("key_id", type_=ApiKeyRow.id.type), LIVE)
    ),
)
FORGET_BATCH = 5000


class Told(TypedDict):
    """What a row says."""

    action: str
    status: int
    request_id: str
    address: str
    key_id: str | None
    project_id: str | None
    object_kind: str | None
    object_id: str | None


class Audit:
    """The `audit` table."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, *, while_live: bool = False, **told: Unpack[Told]) -> bool:
        """Append a row; with `while_live` only if the key lives. Returns whether it was appended."""
        return self._session.scalar(_ADD_WHILE_LIVE if while_live else _ADD, _cut(told)) is not None

    def add_all(self, rows: Sequence[Told]) -> None:
        """Append rows."""
        if rows:
            self._session.connection().execute(_ADD_ALL, [_cut(told) for told in rows])

    def forget(self, max_age_s: float, *, dry_run: bool = False) -> int:
        """Delete those of the oldest `FORGET_BATCH` rows that are older than this; returns how many (would) go."""
        # Ids grow with time: nothing but the oldest need be looked at.
        oldest = select(AuditRow.id, AuditRow.created_at).order_by(AuditRow.id).limit(FORGET_BATCH).subquery()
        old = select(oldest.c.id).where(oldest.c.created_at < database_now(-max_age_s))
        num = self._session.scalar(select(func.count()).select_from(old.subquery())) or 0
        if num and not dry_run:
            self._session.execute(delete(AuditRow).where(AuditRow.id.in_(old)))
        return num

    def page(self, *, wanted: Mapping[str, Any], before: str | None = None, limit: int = 50) -> RowPage[AuditRow]:
        """Newest first, optionally only rows with the `wanted` values of columns; `before` is an id."""
        query = select(AuditRow).filter_by(**wanted)
        if before is not None:
            query = query.where(AuditRow.id < (int(before) if before.isdecimal() and len(before) < 19 else 0))
        return newest_first(self._session, query, AuditRow.id, before=None, limit=limit)


def _cut(told: Told) -> dict[str, Any]:
    """The row, no longer than its columns."""
    long = {"action": 200, "request_id": 64, "address": 64, "object_id": 200}
    return {
        name: value[: long[name]] if name in long and isinstance(value, str) else value for name, value in told.items()
    }
