"""Cursors: opaque to clients, the id of the last row to us."""

import base64
import binascii
import re
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query
from pydantic import BaseModel

from app.errors import ApiProblem
from app.store.repositories import RowPage
from secateur.schemas import Page

R = TypeVar("R")
B = TypeVar("B", bound=BaseModel)

_ID = re.compile(r"[\w.:/-]{1,200}")

Limit = Annotated[int, Query(ge=1, le=200, description="Most items on the page.")]


def _before(
    cursor: Annotated[str | None, Query(max_length=400, description="`next_cursor` of the page before.")] = None,
) -> str | None:
    """Decode the cursor; raises 422 for one that we did not make."""
    if cursor is None:
        return None
    try:
        before = base64.urlsafe_b64decode(cursor.encode("ascii") + b"==").decode("ascii")
    except (binascii.Error, ValueError):
        before = ""
    if not _ID.fullmatch(before):
        raise ApiProblem("bad_cursor", "The cursor is none of ours; pass `next_cursor` of the page before, unchanged.")
    return before


Before = Annotated[str | None, Depends(_before)]


def to_page(page: RowPage[R], kind: type[B], convert: Callable[[R], B]) -> Page[B]:
    """A page of rows as a page on the wire."""
    cursor = page.next_before and base64.urlsafe_b64encode(page.next_before.encode()).decode().rstrip("=")
    items: list[Any] = [convert(row) for row in page.rows]
    return Page[kind](items=items, next_cursor=cursor)  # type: ignore[valid-type]
