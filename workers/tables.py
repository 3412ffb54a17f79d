"""How a job's latency tables reach the registry: merged entry by entry with what others stored meanwhile.

Read, merge, store: the store takes a table only while the version it was merged from is still the newest, else all
three happen again. So two jobs that extend one table at once lose nothing, and no job changes an entry that is there.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.store.blobs import Blob, BlobStore
from app.store.models import PruneJobRow
from app.store.repositories import Artifacts, Holds, Luts
from app.store.repositories.luts import FIGURES
from app.store.sessions import Database
from lut.profile import DeviceProfile
from lut.table import LatencyTable
from workers.files import TABLES, known

SETTLED = "plan.json"


def merged(stored: LatencyTable, mine: LatencyTable, base: LatencyTable | None) -> LatencyTable:
    """Return `stored` with the entries of `mine` that it lacks, and with the seconds that `mine` took beyond its `base`.

    Raises ValueError when the tables belong to different profiles.
    """
    fresh_s = mine.seconds - (base.seconds if base else 0.0)
    return replace(mine.merge(stored), seconds=stored.seconds + max(0.0, fresh_s))


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A table to be stored, and the version it was merged from."""

    device_id: str
    file: str
    """Name of the file it is in the job."""
    blob: Blob
    content: bytes | None
    """What the blob holds, where it is not a file that the job keeps."""
    values: Mapping[str, Any]
    expected: int
    """Newest version when it was merged; 0 where there was no table."""

    def store(self, session: Session, blobs: BlobStore, job_id: str) -> dict[str, Any]:
        """Make it the newest version and return which one that is. Raises `Moved`: propose again."""
        if self.content is not None:
            Holds(session).lock(self.blob.sha256)
            if not blobs.exists(self.blob.sha256):
                blobs.put_bytes(self.content)
        profile = DeviceProfile(**self.values["profile"])
        row = Luts(session).save(
            device_id=self.device_id, fingerprint=profile.fingerprint, profile=asdict(profile),
            blob_sha256=self.blob.sha256, size_bytes=self.blob.size_bytes, expected=self.expected, job_id=job_id,
            **{name: self.values[name] for name in FIGURES if name in self.values},
        )  # fmt: skip
        return {"name": self.file, "lut_id": row.id, "version": row.version}


def propose(
    database: Database,
    blobs: BlobStore,
    device_id: str,
    table: Mapping[str, Any],
    mine: tuple[Path, Blob],
    inputs: Mapping[str, str],
) -> Proposal:
    """Return what to store of a table a step left (`table` is the step's word on it, `mine` its file and blob).

    `inputs` are the files the job began with: where the registry still has the table the job started from, or none, the
    job's own is stored as it is.
    """
    path, blob = mine
    fingerprint = DeviceProfile(**table["profile"]).fingerprint
    with database.read() as session:
        row = Luts(session).find(device_id, fingerprint)
    before = inputs.get(known(table["file"]))
    if row is None or row.blob_sha256 == before:
        expected = row.version if row else 0
        return Proposal(
            device_id=device_id, file=table["file"], blob=blob, content=None, values=table, expected=expected
        )
    base = _loaded(blobs, before) if before and blobs.exists(before) else None
    both = merged(_loaded(blobs, row.blob_sha256), LatencyTable.load(path), base)
    content = both.to_bytes()
    stored = blobs.put_bytes(content)
    return Proposal(
        device_id=device_id, file=table["file"], blob=stored, content=content, values=both.figures(),
        expected=row.version,
    )  # fmt: skip


def _loaded(blobs: BlobStore, sha256: str) -> LatencyTable:
    with blobs.local(sha256) as path:
        return LatencyTable.load(path)


def joined(tables: Iterable[Mapping[str, Any]], newer: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the job's tables with `newer` ones in the places of those of the same name."""
    found = {table["name"]: dict(table) for table in (*tables, *newer)}
    return [found[name] for name in sorted(found)]


def tell_table(session: Session, blobs: BlobStore, row: PruneJobRow) -> None:
    """Give the table that a job planned with the pair that came of it, if any did."""
    own = next((table for table in row.tables if table["name"] == TABLES[0]), None)
    plan = Artifacts(session).get(row.id, SETTLED)
    found = pair(blobs.read_bytes(plan.sha256)) if own and plan else None
    if own and found:
        Luts(session).add_pair(
            own["lut_id"], job_id=row.id, version=own["version"], predicted_ms=found[0], measured_ms=found[1]
        )


def pair(plan: bytes) -> tuple[float, float] | None:
    """Return (predicted, measured) milliseconds of the plan a job settled on; None where it found none.

    Predicted is the table's own word, scaled to the dense network: what the search corrected is taken out again.
    """
    chosen = json.loads(plan).get("plans", {}).get("main", {}).get("chosen")
    if not chosen or not chosen.get("measured_ms") or not chosen.get("correction"):
        return None
    return chosen["predicted_ms"] / chosen["correction"], chosen["measured_ms"]
