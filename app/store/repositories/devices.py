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

    def get(self, device_id: str) -> DeviceRow | None:
        """The device, or None."""
        return self._session.get(DeviceRow, device_id)

    def page(self, *, before: str | None = None, limit: int = 50) -> RowPage[DeviceRow]:
        """By id, falling."""
        return newest_first(self._session, select(DeviceRow), DeviceRow.id, before=before, limit=limit)
