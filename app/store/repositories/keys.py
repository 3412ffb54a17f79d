"""API keys: found by their prefix, living by the database's clock, ended with the key they were derived from."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, bindparam, case, delete, func, literal, or_, select, update
from sqlalchemy.orm import Session

from app.store.base import database_now, new_id
from app.store.models import ApiKeyRow, ProjectRow
from app.store.repositories.pages import RowPage, newest_first

USED_EVERY_S = 60.0
FORGOTTEN_AFTER_S = 30 * 86400.0

LIVE = and_(ApiKeyRow.revoked_at.is_(None), or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > database_now()))
_used_lately = func.coalesce(ApiKeyRow.last_used_at >= database_now(-USED_EVERY_S), False)

# Asked with every request, and so made once.
_FIND = (
    select(ApiKeyRow, case((LIVE, 1), else_=0), case((_used_lately, 1), else_=0), ProjectRow.limits)
    .join(ProjectRow, ProjectRow.id == ApiKeyRow.project_id)
    .where(ApiKeyRow.prefix == bindparam("prefix"))
)
_IS_LIVE = select(ApiKeyRow.id).where(ApiKeyRow.id == bindparam("key_id"), LIVE)


@dataclass(frozen=True, kw_only=True)
class FoundKey:
    """A key and what is true of it now."""

    row: ApiKeyRow
    live: bool
    used_lately: bool
    root_id: str
    """The key that it goes back to, by way of keys that were derived from it; its own id where it was not derived."""
    limits: dict[str, int | None]
    """Of its project."""


class Keys:
    """The `api_key` table."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(
        self,
        *,
        project_id: str,
        name: str,
        prefix: str,
        sha256: str,
        scopes: Sequence[str],
        expires_at: datetime | None = None,
        created_by: str | None = None,
        derived: bool = False,
    ) -> ApiKeyRow:
        """Insert a key. Raises sqlalchemy.exc.IntegrityError when there is one with this prefix."""
        row = ApiKeyRow(
            id=new_id("key"),
            project_id=project_id,
            name=name,
            prefix=prefix,
            sha256=sha256,
            scopes=list(scopes),
            expires_at=expires_at,
            created_by=created_by,
            derived=derived,
        )
        self._session.add(row)
        self._session.flush()
        return row

    def find(self, prefix: str) -> FoundKey | None:
        """The key that begins so, dead or alive, or None."""
        found = self._session.execute(_FIND, {"prefix": prefix}).one_or_none()
        if found is None:
            return None
        row, live, used_lately, limits = found
        root_id = self._root_id(row.id) if row.derived else row.id
        return FoundKey(row=row, live=bool(live), used_lately=bool(used_lately), root_id=root_id, limits=limits)

    def _root_id(self, key_id: str) -> str:
        columns = (ApiKeyRow.id, ApiKeyRow.created_by, ApiKeyRow.derived)
        chain = select(*columns, literal(0).label("depth")).where(ApiKeyRow.id == key_id).cte(recursive=True)
        makers = select(*columns, chain.c.depth + 1).where(chain.c.derived, ApiKeyRow.id == chain.c.created_by)
        chain = chain.union_all(makers)
        return str(self._session.scalar(select(chain.c.id).order_by(chain.c.depth.desc()).limit(1)))

    def is_live(self, key_id: str, *, share: bool = False) -> bool:
        """True while the key counts. `share` keeps others from revoking it until we commit."""
        query = _IS_LIVE.with_for_update(read=True) if share else _IS_LIVE
        return self._session.scalar(query, {"key_id": key_id}) is not None

    def live(self, key_ids: Collection[str]) -> set[str]:
        """Those of the keys that count."""
        if not key_ids:
            return set()
        return set(self._session.scalars(select(ApiKeyRow.id).where(ApiKeyRow.id.in_(key_ids), LIVE)))

    def use(self, key_id: str) -> None:
        """Note that the key was used just now, unless that was noted within the last minute."""
        query = update(ApiKeyRow).where(ApiKeyRow.id == key_id, ~_used_lately).values(last_used_at=database_now())
        self._session.execute(query.execution_options(synchronize_session=False))

    def get(self, key_id: str, *, seen_by: str | None = None) -> ApiKeyRow | None:
        """The key as it is now, or None; only that key itself and those it made where `seen_by` names one."""
        query = select(ApiKeyRow).where(ApiKeyRow.id == key_id, *_seen_by(seen_by))
        return self._session.scalar(query.execution_options(populate_existing=True))

    def page(
        self, *, project_id: str | None = None, seen_by: str | None = None, before: str | None = None, limit: int = 50
    ) -> RowPage[ApiKeyRow]:
        """Newest first, optionally only those of one project."""
        query = select(ApiKeyRow).where(*_seen_by(seen_by))
        if project_id is not None:
            query = query.where(ApiKeyRow.project_id == project_id)
        return newest_first(self._session, query, ApiKeyRow.id, before=before, limit=limit)

    def revoke(self, key_id: str) -> None:
        """End the key and, all the way down, those derived from it; one that has ended already stays as it is."""
        ids = [key_id]
        while ids:
            # One generation at a time, parents first: a key that is being derived meanwhile waits, and is then refused.
            ended = update(ApiKeyRow).where(ApiKeyRow.id.in_(ids), ApiKeyRow.revoked_at.is_(None))
            self._session.execute(ended.values(revoked_at=database_now()))
            children = select(ApiKeyRow.id).where(ApiKeyRow.created_by.in_(ids), ApiKeyRow.derived)
            ids = list(self._session.scalars(children))
        self._session.expire_all()

    def has_admin(self) -> bool:
        """True when there has ever been a key of an administrator."""
        # JSON lists are searched here, not in SQL: the two databases differ, and this is asked once a start.
        return any("admin" in scopes for scopes in self._session.scalars(select(ApiKeyRow.scopes)))

    def forget_ended(self) -> None:
        """Delete derived keys, such as logins, that expired a month ago."""
        old = ApiKeyRow.expires_at < database_now(-FORGOTTEN_AFTER_S)
        self._session.execute(delete(ApiKeyRow).where(ApiKeyRow.derived, old))


def _seen_by(key_id: str | None) -> list[ColumnElement[bool]]:
    return [] if key_id is None else [or_(ApiKeyRow.id == key_id, ApiKeyRow.created_by == key_id)]
