"""Latency tables: one per profile of a device."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.store.base import database_now, new_id
from app.store.models import LutRow
from app.store.repositories.pages import RowPage, newest_first
from app.store.repositories.upsert import upsert


class Luts:
    """The `lut` table."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def save(
        self,
        *,
        device_id: str,
        fingerprint: str,
        profile: Mapping[str, Any],
        blob_sha256: str,
        num_entries: int,
        num_signatures: int,
        step: int,
        noise: float,
        seconds: float,
    ) -> LutRow:
        """Insert the table of this profile or replace it; its id stays, `updated_at` moves."""
        values: dict[str, Any] = {
            "profile": dict(profile),
            "blob_sha256": blob_sha256,
            "num_entries": num_entries,
            "num_signatures": num_signatures,
            "step": step,
            "noise": noise,
            "seconds": seconds,
        }
        upsert(
            self._session,
            LutRow,
            keys={"device_id": device_id, "fingerprint": fingerprint},
            insert={"id": new_id("lut"), **values},
            update={**values, "updated_at": database_now()},
        )
        row = self.find(device_id, fingerprint)
        assert row is not None
        return row

    def find(self, device_id: str, fingerprint: str) -> LutRow | None:
        """The table of this profile, or None when it was never measured."""
        query = select(LutRow).where(LutRow.device_id == device_id, LutRow.fingerprint == fingerprint)
        return self._session.scalar(query)

    def newest(self, device_id: str, *, threads: int, batch: int) -> LutRow | None:
        """The table of the device at these threads and this batch that was touched last, whatever else its profile says."""
        query = select(LutRow).where(LutRow.device_id == device_id).order_by(LutRow.updated_at.desc(), LutRow.id.desc())
        setting = {"threads": threads, "batch": batch}
        return next((row for row in self._session.scalars(query) if setting.items() <= row.profile.items()), None)

    def get(self, lut_id: str) -> LutRow | None:
        """The table with this id, or None."""
        return self._session.get(LutRow, lut_id)

    def page(self, *, device_id: str | None = None, before: str | None = None, limit: int = 50) -> RowPage[LutRow]:
        """Newest first, optionally of one device."""
        query = select(LutRow)
        if device_id is not None:
            query = query.where(LutRow.device_id == device_id)
        return newest_first(self._session, query, LutRow.id, before=before, limit=limit)
