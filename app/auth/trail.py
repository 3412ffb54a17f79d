"""The audit trail: one row for each request that changes something, and for each that is refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import event
from sqlalchemy.orm import Session

from app.store.models import ApiKeyRow
from app.store.repositories import Audit
from app.store.repositories.audit import Told

REFUSED = (401, 403)
SHELL = "shell"


@dataclass(kw_only=True)
class Trail:
    """What is known so far of one request; no secret is among it."""

    address: str
    request_id: str
    action: str
    """Method and route; the path as it came while there is no route."""
    success: int = 200
    """Status of the route's good answer."""
    changes: bool = False
    """True once the request is let in to change something."""
    key_id: str | None = None
    project_id: str | None = None
    object_kind: str | None = None
    object_id: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    """For the answer, whatever it is."""
    anonymous: bool = True
    written: bool = False

    def record(self, session: Session, object_id: str | None = None, *, while_live: bool = False) -> bool:
        """Write the row in the transaction that makes the change: both are there, or neither.

        With `while_live` only if the key still lives; returns whether it was written.
        """
        self.object_id = object_id or self.object_id
        added = Audit(session).add(**self.told(self.success), while_live=while_live)
        event.listen(session, "after_commit", self._committed, once=True)
        return added

    def write(self, session: Session, status: int) -> None:
        """Write the row of a request that changed nothing, or of one that could not tell."""
        Audit(session).add(**self.told(status))
        self.written = True

    def is_due(self, status: int) -> bool:
        """True when an answer of this status still needs a row."""
        return not self.written and (self.changes or status in REFUSED)

    def told(self, status: int) -> Told:
        """What the row says of a request that ended with `status`."""
        return {
            "action": self.action, "status": status, "request_id": self.request_id, "address": self.address,
            "key_id": self.key_id, "project_id": self.project_id, "object_kind": self.object_kind,
            "object_id": self.object_id,
        }  # fmt: skip

    def _committed(self, session: Session) -> None:
        self.written = True


def record_all(session: Session, trails: Mapping[str, Trail]) -> None:
    """Write the rows of requests that made these objects in this transaction, by the object's id."""
    for object_id, trail in trails.items():
        trail.object_id = object_id
    Audit(session).add_all([trail.told(trail.success) for trail in trails.values()])

    def committed(session: Session) -> None:
        for trail in trails.values():
            trail.written = True

    event.listen(session, "after_commit", committed, once=True)


def record_shell(session: Session, row: ApiKeyRow) -> None:
    """Write the row of a key that was made with access to the database, over no request."""
    Audit(session).add(
        action="make a key", status=200, request_id="", address=SHELL, key_id=None, project_id=row.project_id,
        object_kind="api-keys", object_id=row.id,
    )  # fmt: skip
