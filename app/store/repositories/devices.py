"""Devices, registered by the workers that own them and the agents that measure on them."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.orm import Session

from app.store.base import database_now
from app.store.models import DEFAULT_PROJECT, DeviceRow
from app.store.repositories.pages import RowPage, newest_first
from app.store.repositories.upsert import upsert

# Asked with every job that is submitted, and so made once.
_ONE = select(DeviceRow).where(DeviceRow.id == bindparam("id"))


class Devices:
    """The `device` table."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def register(self, device_id: str, *, name: str, hardware: str, runtime: str, runtime_version: str) -> DeviceRow:
        """Insert the device or bring it up to date; safe when several workers do so at once."""
        values = {"name": name, "hardware": hardware, "runtime": runtime, "runtime_version": runtime_version}
        upsert(self._session, DeviceRow, keys={"id": device_id}, insert=values, update=values)
        return self._session.scalars(select(DeviceRow).where(DeviceRow.id == device_id)).one()

    def enrol(
        self, device_id: str, profiles: Sequence[Mapping[str, Any]], project_id: str = DEFAULT_PROJECT
    ) -> DeviceRow:
        """Insert or update the device of an agent, which was heard of just now; the first profile is the device's own.

        The first project that enrols agents of a device keeps it: look at `project_id` of what comes back.
        """
        own = {name: profiles[0][name] for name in ("hardware", "runtime", "runtime_version")}
        values = {**own, "profiles": [dict(profile) for profile in profiles], "last_seen_at": database_now()}
        insert = {"name": device_id, "project_id": project_id, **values}
        update = {"project_id": func.coalesce(DeviceRow.project_id, project_id), **values}
        upsert(self._session, DeviceRow, keys={"id": device_id}, insert=insert, update=update)
        return self._session.scalars(select(DeviceRow).where(DeviceRow.id == device_id)).one()

    def seen(self, device_id: str) -> None:
        """Note that an agent of the device was heard of just now."""
        self._session.execute(update(DeviceRow).where(DeviceRow.id == device_id).values(last_seen_at=database_now()))

    def online(self, device_ids: Sequence[str], timeout_s: float) -> set[str]:
        """Those of the devices of which an agent was heard within `timeout_s`."""
        query = select(DeviceRow.id).where(
            DeviceRow.id.in_(device_ids), DeviceRow.last_seen_at >= database_now(-timeout_s)
        )
        return set(self._session.scalars(query))

    def add(self, device_id: str, *, name: str, hardware: str, runtime: str, runtime_version: str) -> DeviceRow:
        """Insert a device no worker serves. Raises sqlalchemy.exc.IntegrityError when there is one of this id."""
        row = DeviceRow(id=device_id, name=name, hardware=hardware, runtime=runtime, runtime_version=runtime_version)
        self._session.add(row)
        self._session.flush()
        return row

    def get(self, device_id: str, *, share: bool = False, lock: bool = False) -> DeviceRow | None:
        """The device, or None. `share` keeps others from deleting it until we commit, `lock` from using it."""
        query = _ONE.with_for_update(read=not lock) if share or lock else _ONE
        return self._session.scalar(query, {"id": device_id})

    def delete(self, row: DeviceRow) -> None:
        """Remove a device that nothing refers to; a worker of it registers it again when it starts."""
        self._session.delete(row)
        self._session.flush()

    def page(self, *, before: str | None = None, limit: int = 50) -> RowPage[DeviceRow]:
        """By id, falling."""
        return newest_first(self._session, select(DeviceRow), DeviceRow.id, before=before, limit=limit)
