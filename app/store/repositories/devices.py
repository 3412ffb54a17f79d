"""Devices, registered by the workers that own them."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.store.models import DeviceRow
from app.store.repositories.pages import RowPage, newest_first
from app.store.repositories.upsert import upsert


class Devices:
    """The `device` table."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def register(self, device_id: str, *, name: str, hardware: str, runtime: str, runtime_version: str) -> DeviceRow:
        """Insert the device or bring it up to date; safe when several workers do so at once."""
        values = {"name": name, "hardware": hardware, "runtime": runtime, "runtime_version": runtime_version}
        upsert(self._session, DeviceRow, keys={"id": device_id}, insert=values, update=values)
        return self._session.scalars(select(DeviceRow).where(DeviceRow.id == device_id)).one()

    def add(self, device_id: str, *, name: str, hardware: str, runtime: str, runtime_version: str) -> DeviceRow:
        """Insert a device no worker serves. Raises sqlalchemy.exc.IntegrityError when there is one of this id."""
        row = DeviceRow(id=device_id, name=name, hardware=hardware, runtime=runtime, runtime_version=runtime_version)
        self._session.add(row)
        self._session.flush()
        return row

    def get(self, device_id: str, *, share: bool = False, lock: bool = False) -> DeviceRow | None:
        """The device, or None. `share` keeps others from deleting it until we commit, `lock` from using it."""
        query = select(DeviceRow).where(DeviceRow.id == device_id)
        if share or lock:
            query = query.with_for_update(read=not lock)
        return self._session.scalar(query)

    def delete(self, row: DeviceRow) -> None:
        """Remove a device that nothing refers to; a worker of it registers it again when it starts."""
        self._session.delete(row)
        self._session.flush()

    def page(self, *, before: str | None = None, limit: int = 50) -> RowPage[DeviceRow]:
        """By id, falling."""
        return newest_first(self._session, select(DeviceRow), DeviceRow.id, before=before, limit=limit)
