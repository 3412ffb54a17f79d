"""Insert or update in one statement, which two processes may run at once."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.store.base import Base


def upsert(
    session: Session,
    table: type[Base],
    *,
    keys: Mapping[str, Any],
    insert: Mapping[str, Any],
    update: Mapping[str, Any],
) -> None:
    """Insert `keys` and `insert`; where a row with these unique `keys` exists, set `update` on it instead."""
    # Rows this session has already loaded would otherwise keep their old values.
    session.flush()
    statement = _insert(session, table).values(**keys, **insert)
    session.execute(statement.on_conflict_do_update(index_elements=list(keys), set_=dict(update)))
    session.expire_all()


def insert_or_skip(session: Session, table: type[Base], *, keys: Mapping[str, Any], insert: Mapping[str, Any]) -> None:
    """Insert `keys` and `insert` unless a row with these unique `keys` exists."""
    session.flush()
    session.execute(_insert(session, table).values(**keys, **insert).on_conflict_do_nothing(index_elements=list(keys)))


def _insert(session: Session, table: type[Base]) -> postgresql.Insert | sqlite.Insert:
    dialect = session.get_bind().dialect.name
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
