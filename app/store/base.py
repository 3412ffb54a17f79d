"""What every table shares: naming of constraints, UTC timestamps, the database's clock, sortable ids."""

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any

from sqlalchemy import BigInteger, DateTime, Dialect, Integer, MetaData, String, Table
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.sql.visitors import InternalTraversal
from sqlalchemy.types import TypeDecorator

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


Id = String(64)
Sha256 = String(64)
# SQLite only counts an INTEGER PRIMARY KEY up by itself, never a BIGINT one.
Counter = BigInteger().with_variant(Integer, "sqlite")


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC, always aware; SQLite keeps it as text without a zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment without a time zone cannot be stored")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class database_now(ColumnElement[datetime]):  # noqa: N801  (reads as the SQL function it is)
    """SQL for the database's own clock, moved by `offset_s` seconds: hosts may disagree about the time."""

    type = UtcDateTime()
    # The offset is part of the text, and so of what a compiled statement is found by.
    _traverse_internals = [("offset_s", InternalTraversal.dp_plain_obj)]  # noqa: RUF012
    inherit_cache = True

    def __init__(self, offset_s: float = 0.0) -> None:
        self.offset_s = float(offset_s)


@compiles(database_now, "sqlite")
def _sqlite_now(element: database_now, compiler: SQLCompiler, **kwargs: Any) -> str:
    # Padded to microseconds, so that text order is time order beside values Python wrote.
    return f"(strftime('%Y-%m-%d %H:%M:%f', 'now', '{element.offset_s:+.3f} seconds') || '000')"


@compiles(database_now, "postgresql")
def _postgres_now(element: database_now, compiler: SQLCompiler, **kwargs: Any) -> str:
    return f"(clock_timestamp() + make_interval(secs => {element.offset_s:.3f}))"


class Base(DeclarativeBase):
    """Base of our tables."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)


def new_id(prefix: str) -> str:
    """Return `<prefix>_<28 hex digits>`: ids sort by the time they were made, on every collation."""
    return f"{prefix}_{time.time_ns():016x}{secrets.token_hex(6)}"


def table_of(kind: type[Base]) -> Table:
    """Return a class's table, for statements around the unit of work, which takes longer than the database."""
    table = kind.__table__
    assert isinstance(table, Table)
    return table


def values_of(row: Base) -> dict[str, Any]:
    """Return what a row that is not stored yet holds, by column, defaults filled in; without what the database fills in."""
    given = vars(row)
    return {name: given[name] if name in given else default() for name, default in _defaults(type(row)).items()}


@cache
def _defaults(kind: type[Base]) -> dict[str, Callable[[], Any]]:
    columns: dict[str, Any] = {column.name: column.default for column in table_of(kind).columns}
    return {name: partial(_made, one) for name, one in columns.items() if one is None or not one.is_clause_element}


def _made(default: Any) -> Any:
    if default is None:
        return None
    return default.arg(None) if default.is_callable else default.arg
