"""Workers: who lives, by the database's clock, and who has been declared dead."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.store.base import database_now
from app.store.models import PruneJobRow, WorkerRow
from app.store.repositories.jobs import ACTIVE


class Workers:
    """The `worker` table."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def register(self, worker_id: str, *, slot: str, device_id: str, version: str = "") -> WorkerRow:
        """Insert a new boot, live from now on."""
        row = WorkerRow(id=worker_id, slot=slot, device_id=device_id, version=version)
        self._session.add(row)
        self._session.flush()
        return row

    def get(self, worker_id: str) -> WorkerRow | None:
        """The worker as it is now, or None."""
        return self._session.get(WorkerRow, worker_id, populate_existing=True)

    def heartbeat(self, worker_id: str) -> bool:
        """Say that the worker lives; False when it was declared dead meanwhile and has to stop."""
        query = (
            update(WorkerRow)
            .where(WorkerRow.id == worker_id, WorkerRow.status == "live")
            .values(heartbeat_at=database_now())
            .returning(WorkerRow.id)
        )
        return self._session.scalar(query) is not None

    def live(self, timeout_s: float, *, device_id: str | None = None) -> list[WorkerRow]:
        """Workers that gave a sign of life within `timeout_s`, optionally only those of one device."""
        query = select(WorkerRow).where(WorkerRow.status == "live", WorkerRow.heartbeat_at >= database_now(-timeout_s))
        if device_id is not None:
            query = query.where(WorkerRow.device_id == device_id)
        return list(self._session.scalars(query.order_by(WorkerRow.id)))

    def serves(self, device_id: str) -> bool:
        """True when a worker, dead or alive, is known to own the device."""
        return self._session.scalar(select(WorkerRow.id).where(WorkerRow.device_id == device_id).limit(1)) is not None

    def beats(self) -> dict[str, datetime]:
        """When each worker that has not left said last that it lives, by the database's clock: a mark, not an age."""
        rows = self._session.scalars(select(WorkerRow).where(WorkerRow.status == "live"))
        return {row.id: row.heartbeat_at for row in rows}

    def declare_dead(self, silent: Mapping[str, datetime]) -> list[str]:
        """Live -> dead for those of the workers whose last beat is still this one; returns their ids.

        Each id is returned to one caller only.
        """
        query = update(WorkerRow).where(WorkerRow.status == "live").values(status="dead").returning(WorkerRow.id)
        one = [
            query.where(WorkerRow.id == worker_id, WorkerRow.heartbeat_at == beat) for worker_id, beat in silent.items()
        ]
        return sorted(found for found in map(self._session.scalar, one) if found is not None)

    def declare_older_boots_dead(self, slot: str, worker_id: str) -> list[str]:
        """Live -> dead for every other boot of the slot, whose lock `worker_id` holds by now; returns their ids."""
        query = (
            update(WorkerRow)
            .where(WorkerRow.slot == slot, WorkerRow.id != worker_id, WorkerRow.status == "live")
            .values(status="dead")
            .returning(WorkerRow.id)
        )
        return sorted(self._session.scalars(query))

    def versions(self) -> set[str]:
        """Versions of the workers that have not left."""
        return set(self._session.scalars(select(WorkerRow.version).where(WorkerRow.status == "live")))

    def dead_with_jobs(self) -> list[str]:
        """Dead or stopped workers whose jobs nobody has taken over: what a reaper that died itself left undone."""
        query = (
            select(WorkerRow.id)
            .join(PruneJobRow, PruneJobRow.worker_id == WorkerRow.id)
            .where(WorkerRow.status != "live", PruneJobRow.status.in_(ACTIVE))
            .distinct()
        )
        return sorted(self._session.scalars(query))

    def stop(self, worker_id: str) -> bool:
        """Live -> stopped, when a worker leaves on its own."""
        query = (
            update(WorkerRow)
            .where(WorkerRow.id == worker_id, WorkerRow.status == "live")
            .values(status="stopped")
            .returning(WorkerRow.id)
        )
        return self._session.scalar(query) is not None
