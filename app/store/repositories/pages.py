"""Paging by id, newest first: a page never shifts when rows are added."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class RowPage(Generic[R]):
    """Rows of one page and the id to continue before, None on the last page."""

    rows: list[R]
    next_before: str | None


def newest_first(
    session: Session, query: Select[R], id_column: InstrumentedAttribute[Any], *, before: str | None, limit: int
) -> RowPage[R]:
    """Run `query` for at most `limit` rows with an id below `before`, ids falling."""
    if before is not None:
        query = query.where(id_column < before)
    rows = list(session.scalars(query.order_by(id_column.desc()).limit(limit + 1)))
    if len(rows) <= limit:
        return RowPage(rows=rows, next_before=None)
    return RowPage(rows=rows[:limit], next_before=str(getattr(rows[limit - 1], id_column.key)))
