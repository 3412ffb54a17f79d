"""Latency tables: one per profile of a device, each a row of immutable versions."""

from collections.abc import Mapping
from statistics import median
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.store.base import database_now, new_id
from app.store.models import LutFileRow, LutPairRow, LutRow, LutVersionRow
from app.store.repositories.pages import RowPage, newest_first
from app.store.repositories.upsert import insert_or_skip, upsert

FIGURES = (
    "num_entries", "num_signatures", "step", "noise", "drift", "interpolation", "calibration_residual", "seconds",
)  # fmt: skip
"""What a row says of its newest version (`lut.table.LatencyTable.figures`); a worker of an older version may know fewer."""


class Moved(Exception):
    """The table has a newer version than the one that was read: read it, merge again, store again."""


class Luts:
    """The `lut` table and what hangs on it: versions, pairs, files."""

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
        drift: float = 0.0,
        interpolation: float = 0.0,
        calibration_residual: float = 0.0,
        coarse: bool = False,
        size_bytes: int = 0,
        expected: int | None = None,
        job_id: str | None = None,
        name: str = "",
    ) -> LutRow:
        """Make a new version of this profile's table, the first where there is none; the same content makes none.

        `expected` is the version the content was merged from, 0 for no table: raises `Moved` where another one is newest by
        now. The version is an import's unless it has a `job_id`.
        """
        figures: dict[str, Any] = {
            "blob_sha256": blob_sha256,
            "num_entries": num_entries,
            "num_signatures": num_signatures,
        }
        trust = {"drift": drift, "interpolation": interpolation, "calibration_residual": calibration_residual}
        values = {"profile": dict(profile), **figures, "step": step, "noise": noise, "seconds": seconds, **trust}
        keys = {"device_id": device_id, "fingerprint": fingerprint}
        first = {"id": new_id("lut"), "imported": job_id is None, "coarse": coarse, **values}
        insert_or_skip(self._session, LutRow, keys=keys, insert=first)
        row = self.find(device_id, fingerprint, lock=True)
        assert row is not None
        if expected is not None and row.version != expected:
            raise Moved
        if row.version and row.blob_sha256 == blob_sha256:
            return row
        number = row.version + 1
        moved = update(LutRow).where(LutRow.id == row.id)
        self._session.execute(moved.values(**values, version=number, updated_at=database_now()))
        self._session.add(
            LutVersionRow(
                lut_id=row.id, number=number, size_bytes=size_bytes, **figures,
                source="import" if job_id is None else "job", job_id=job_id, name=name,
            )
        )  # fmt: skip
        self._session.flush()
        self._session.refresh(row)
        return row

    def find(self, device_id: str, fingerprint: str, *, lock: bool = False) -> LutRow | None:
        """The table of this profile as it is now, or None. `lock` keeps others from changing it until we commit."""
        query = select(LutRow).where(LutRow.device_id == device_id, LutRow.fingerprint == fingerprint)
        if lock:
            query = query.with_for_update()
        return self._session.scalar(query.execution_options(populate_existing=True))

    def newest(
        self, device_id: str, *, threads: int, batch: int, runtime: str | None = None, share: bool = False
    ) -> LutRow | None:
        """The device's table at these threads and this batch, whatever else its profile says: a published one before
        others, then the one that was touched last. `share` keeps others from deleting it until we commit.
        """
        query = select(LutRow).where(LutRow.device_id == device_id).order_by(LutRow.updated_at.desc(), LutRow.id.desc())
        setting = {"threads": threads, "batch": batch, **({"runtime": runtime} if runtime else {})}
        fitting = [row for row in self._session.scalars(query) if setting.items() <= row.profile.items()]
        chosen = min(fitting, key=lambda row: row.published_version is None, default=None)
        if chosen is None or not share:
            return chosen
        return self._session.get(LutRow, chosen.id, with_for_update={"read": True})

    def get(self, lut_id: str, *, lock: bool = False) -> LutRow | None:
        """The table with this id, or None. `lock` keeps others from changing it until we commit."""
        query = select(LutRow).where(LutRow.id == lut_id)
        if lock:
            query = query.with_for_update()
        return self._session.scalar(query.execution_options(populate_existing=True))

    def page(
        self,
        *,
        device_id: str | None = None,
        runtime: str | None = None,
        threads: int | None = None,
        batch: int | None = None,
        published: bool | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> RowPage[LutRow]:
        """Newest first, optionally only those of one device or setting."""
        query = select(LutRow)
        if device_id is not None:
            query = query.where(LutRow.device_id == device_id)
        if runtime is not None:
            query = query.where(LutRow.profile["runtime"].as_string() == runtime)
        for name, value in (("threads", threads), ("batch", batch)):
            if value is not None:
                query = query.where(LutRow.profile[name].as_integer() == value)
        if published is not None:
            query = query.where(LutRow.published_version.is_not(None) == published)
        return newest_first(self._session, query, LutRow.id, before=before, limit=limit)

    def publish(self, row: LutRow, number: int | None) -> None:
        """Make a version the team's reference, or, with None, no version."""
        row.published_version = number
        self._session.flush()

    def delete(self, row: LutRow) -> list[str]:
        """Remove the table with all its versions; returns the SHA-256 of the blobs nothing here names any more."""
        versions = select(LutVersionRow.blob_sha256).where(LutVersionRow.lut_id == row.id)
        files = select(LutFileRow.sha256).where(LutFileRow.lut_id == row.id)
        blobs = {*self._session.scalars(versions), *self._session.scalars(files)}
        self._session.delete(row)
        self._session.flush()
        return sorted(blobs)

    # Versions

    def version(self, lut_id: str, number: int) -> LutVersionRow | None:
        """One version, or None."""
        return self._session.get(LutVersionRow, (lut_id, number))

    def versions(self, lut_id: str, *, before: str | None = None, limit: int = 50) -> RowPage[LutVersionRow]:
        """Newest first; `before` is a number."""
        query = select(LutVersionRow).where(LutVersionRow.lut_id == lut_id)
        if before is not None:
            number = int(before) if before.isdecimal() and len(before) < 10 else 0
            query = query.where(LutVersionRow.number < number)
        return newest_first(self._session, query, LutVersionRow.number, before=None, limit=limit)

    # Pairs of what was predicted and what was measured

    def add_pair(
        self, lut_id: str, *, job_id: str, version: int, predicted_ms: float, measured_ms: float
    ) -> float | None:
        """Add a job's pair, or replace it, and return the table's residual; None where the table is gone."""
        row = self.get(lut_id, lock=True)
        if row is None:
            return None
        values = {"version": version, "predicted_ms": predicted_ms, "measured_ms": measured_ms}
        upsert(self._session, LutPairRow, keys={"lut_id": lut_id, "job_id": job_id}, insert=values, update=values)
        pairs = self.pairs(lut_id)
        row.num_pairs = len(pairs)
        row.residual = median(abs(pair.predicted_ms / pair.measured_ms - 1) for pair in pairs)
        self._session.flush()
        return row.residual

    def pairs(self, lut_id: str) -> list[LutPairRow]:
        """The pairs, oldest first."""
        query = select(LutPairRow).where(LutPairRow.lut_id == lut_id)
        return list(self._session.scalars(query.order_by(LutPairRow.created_at, LutPairRow.job_id)))

    # Pictures and other forms

    def file(self, lut_id: str, name: str, made_of: str) -> LutFileRow | None:
        """The file of this name, or None where there is none, or one of something else."""
        row = self._session.get(LutFileRow, (lut_id, name))
        return row if row is not None and row.made_of == made_of else None

    def save_file(self, lut_id: str, name: str, *, made_of: str, sha256: str) -> str | None:
        """Name a stored blob as a file of the table; returns the SHA-256 of the one it replaces."""
        old = self._session.get(LutFileRow, (lut_id, name))
        replaced = old.sha256 if old else None
        values = {"made_of": made_of, "sha256": sha256}
        upsert(self._session, LutFileRow, keys={"lut_id": lut_id, "name": name}, insert=values, update=values)
        return replaced
