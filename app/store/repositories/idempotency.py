"""Answers to requests that carried an `Idempotency-Key`."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.store.base import database_now
from app.store.models import DEFAULT_PROJECT, IdempotencyKeyRow


class Idempotency:
    """The `idempotency_key` table."""

    def __init__(self, session: Session, project_id: str = DEFAULT_PROJECT) -> None:
        """Keys of two projects never meet."""
        self._session = session
        self._project_id = project_id

    def find(self, route: str, key: str, *, max_age_s: float) -> IdempotencyKeyRow | None:
        """The first answer given to this key, unless it is too old to count."""
        query = select(IdempotencyKeyRow).where(
            IdempotencyKeyRow.project_id == self._project_id,
            IdempotencyKeyRow.route == route,
            IdempotencyKeyRow.key == key,
            IdempotencyKeyRow.created_at >= database_now(-max_age_s),
        )
        return self._session.scalar(query)

    def add(
        self, route: str, key: str, *, body_sha256: str, status: int, location: str, body: Mapping[str, Any]
    ) -> None:
        """Keep an answer. Raises sqlalchemy.exc.IntegrityError when another request has just used the key."""
        self._session.add(
            IdempotencyKeyRow(
                project_id=self._project_id,
                route=route,
                key=key,
                body_sha256=body_sha256,
                status=status,
                location=location,
                body=dict(body),
            )
        )
        self._session.flush()

    def delete_old(self, max_age_s: float) -> None:
        """Forget answers older than `max_age_s`."""
        self._session.execute(delete(IdempotencyKeyRow).where(IdempotencyKeyRow.created_at < database_now(-max_age_s)))
