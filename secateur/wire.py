"""What every body shares, and what every kind of job lets its submitter say about when it runs."""

from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")

NO_NUL = r"^[^\x00]*$"
"""Postgres keeps no text with a NUL in it."""
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=NO_NUL)]
Title = Annotated[str, Field(max_length=200, pattern=NO_NUL)]
"""A name that may be left empty."""

DIGITS = r"^[0-9]{1,18}$"
"""A count in a header, which is text: no sign, space, point or underscore, and small enough for every database."""

CLOSING = "closing"
"""Kind of the server-sent event that ends a stream before its job has ended: the process stops, come back elsewhere."""


class Wire(BaseModel):
    """Base of every body: unknown fields are refused, so a misspelt option never passes silently.

    Numbers and truths that come in are strict: neither `"5"` nor `true` is a 5 or a 1.
    """

    model_config = ConfigDict(extra="forbid")


class Page(Wire, Generic[T]):
    """One page of a list; pass `next_cursor` as `?cursor=` for the next."""

    items: list[T]
    next_cursor: str | None = None


class Scheduled(Wire):
    """When a job runs, and how long it may."""

    priority: int = Field(strict=True, default=0, ge=-10, le=10)
    """Jobs of a higher priority go first; among equals submitters take turns."""
    timeout_minutes: float | None = Field(strict=True, default=None, gt=0, le=100_000)
    """The job fails as `timed_out` when it has run for this long, counted from its start and not from its submission."""
    after: list[Name] = Field(default=[], max_length=64)
    """Ids of jobs and table builds that must have succeeded before this one starts; it fails as `dependency_failed` when one
    of them does not."""
