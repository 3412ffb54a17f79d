"""What a worker writes about a job. Every write is fenced: it happens only while the job is still this worker's."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.store.base import database_now
from app.store.blobs import Blob, BlobStore
from app.store.models import PruneJobRow
from app.store.repositories import Artifacts, Events, Holds, Jobs, Measurements, Moved, Waits
from app.store.sessions import Database
from lut.profile import DeviceProfile
from secateur.schemas import JobStatus
from workers.fence import Fenced, TimedOut, fence, patient
from workers.reconnect import decided
from workers.step import Output
from workers.tables import Proposal, joined, propose, tell_table
from workers.view import JobView, make_view, preflight_row

log = structlog.get_logger(__name__)

RESULT = "result/"
CHECKPOINT = "checkpoint/"

MEASURE = "measure/"


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A file of the job that was stored as a blob and is to be recorded."""

    name: str
    blob: Blob
    source: Path
    media_type: str = "application/octet-stream"
    hidden: bool = True


class Journal:
    """The jobs of one worker, in the database and the blob store. Its methods block: call them from a thread."""

    def __init__(
        self, database: Database, blobs: BlobStore, worker_id: str, device_id: str, limits: Mapping[str, float]
    ) -> None:
        self.database = database
        self.blobs = blobs
        self.worker_id = worker_id
        self._device_id = device_id
        self.limits = dict(limits)

    @patient
    def begin(self, job_id: str, workflow_id: str, profile: DeviceProfile) -> JobView | None:
        """Take the job over; None when it has ended, was cancelled, or is run by another workflow since a retry."""
        with decided(self.database) as session:
            jobs = Jobs(session)
            row = jobs.get(job_id)
            if row is None or row.workflow_id != workflow_id:
                return None
            if row.status == JobStatus.CANCELLING:
                jobs.finish_cancel(job_id)
            if row.status == JobStatus.QUEUED and (build := Waits(session).measuring(row)):
                # It would measure the same points at the same time; its worker is free for others meanwhile.
                Waits(session).defer(row, build)
                return None
            if not jobs.begin(job_id, self.worker_id):
                return None
            row = jobs.get(job_id)
            assert row is not None
            try:
                view = self._view(session, row, profile)
                jobs.set_tables(job_id, view.tables)
                return replace(view, deadline=_deadline(session, row))
            except LookupError as error:
                jobs.fail(job_id, code="input_gone", detail=str(error.args[0]))
                return None

    def preflight_view(self, spec: Mapping[str, Any], profile: DeviceProfile) -> JobView:
        """Return a view of a job that was not submitted; raises LookupError when its model or dataset is gone."""
        with self.database.read() as session:
            return self._view(session, preflight_row(session, spec, self._device_id), profile)

    def _view(self, session: Session, row: PruneJobRow, profile: DeviceProfile) -> JobView:
        return make_view(session, row, profile, self._device_id, self.limits)

    @patient
    def check(self, job: JobView) -> None:
        """Raise Fenced, JobCancelled or TimedOut unless the job is running, this worker's, and within its time."""
        with self.database.read() as session:
            fence(Jobs(session).get(job.id), job, self.worker_id)
        if job.deadline is not None and time.monotonic() > job.deadline:
            raise TimedOut(job.id)

    @patient
    def phase(self, job: JobView, phase: str) -> None:
        """Record the phase."""
        with self.fenced(job) as (session, row):
            if row.phase != phase:
                Jobs(session).set_phase(job.id, phase)

    @patient
    def progress(self, job: JobView, progress: float, seconds_left: float | None = None) -> None:
        """Record the progress of the whole job, which never goes back."""
        with self.fenced(job) as (session, row):
            if progress > row.progress:
                Jobs(session).set_progress(job.id, progress, seconds_left)

    @patient
    def event(self, job: JobView, kind: str, data: Mapping[str, Any]) -> None:
        """Add a line to the job's history."""
        with self.fenced(job) as (session, _):
            Events(session).append(job.id, kind, data)

    @patient
    def artifacts(self, job: JobView) -> dict[str, str]:
        """SHA-256 of everything the job has left so far, by name, hidden files included."""
        with self.database.read() as session:
            rows = [row for hidden in (False, True) for row in Artifacts(session).list(job.id, hidden=hidden)]
            return {row.name: row.sha256 for row in rows}

    @patient
    def checkpoint(self, job: JobView, step: str, name: str, copy: Path, values: Mapping[str, Any]) -> None:
        """Keep a checkpoint of a step, with the figures that belong to it, and forget the one before it."""
        kept = Kept(name=f"{CHECKPOINT}{step}/{name}", blob=self.blobs.put_file(copy), source=copy)
        with self.fenced(job) as (session, _):
            before = Artifacts(session).get(job.id, kept.name)
            old = before.sha256 if before else None
            self.record(session, job, kept)
            if values:
                Events(session).append(job.id, "metric", values)
        if old not in (None, kept.blob.sha256):
            self.drop([str(old)])

    @patient
    def held(self, path: Path) -> dict[str, Any]:
        """Store a file that no job and no row names yet, and hold it until whoever asked for it has named it."""
        blob = self.blobs.put_file(path)
        with self.database.write() as session:
            hold_id = Holds(session).add(blob.sha256)
            if not self.blobs.exists(blob.sha256):
                self.blobs.put_file(path)
        return {"sha256": blob.sha256, "size_bytes": blob.size_bytes, "hold_id": hold_id}

    @patient
    def finish_step(
        self, job: JobView, step: str, result: Mapping[str, Any], files: list[Kept], progress: float
    ) -> None:
        """Record, in one transaction, that a step is done: its result, its files, the headline figures, the tables."""
        while True:
            tables = [self._propose(job, table, files) for table in result.get("luts", ())]
            try:
                return self._finish_step(job, step, result, files, progress, tables)
            except Moved:
                continue  # another job has stored a version of the same table meanwhile

    def _propose(self, job: JobView, table: Mapping[str, Any], files: list[Kept]) -> Proposal:
        mine = next(kept for kept in files if kept.name == table["file"])
        own, device_id = (mine.source, mine.blob), table.get("device") or self._device_id
        return propose(self.database, self.blobs, device_id, table, own, job.inputs)

    def _finish_step(
        self,
        job: JobView,
        step: str,
        result: Mapping[str, Any],
        files: list[Kept],
        progress: float,
        tables: list[Proposal],
    ) -> None:
        dropped: list[str] = []
        with self.fenced(job) as (session, row):
            for kept in files:
                self.record(session, job, kept)
            if summary := result.get("summary"):
                Jobs(session).set_summary(job.id, {**(row.summary or {}), **summary})
            stored = [table.store(session, self.blobs, job.id) for table in tables]
            if stored:
                Jobs(session).set_tables(job.id, joined(row.tables, stored))
            for old in Artifacts(session).list(job.id, hidden=True):
                if old.name.startswith((f"{CHECKPOINT}{step}/", f"{MEASURE}{step}/")):
                    session.delete(old)
                    dropped.append(old.sha256)
            Measurements(session).forget(job.workflow_id, step)
            Jobs(session).set_progress(job.id, progress)
        self.drop(dropped)

    @patient
    def recall_step(self, job: JobView, result: Mapping[str, Any], progress: float) -> None:
        """Count a step that an earlier attempt finished: a retried job begins with no figures and no progress."""
        with self.fenced(job) as (session, row):
            if summary := result.get("summary"):
                Jobs(session).set_summary(job.id, {**(row.summary or {}), **summary})
            if progress > row.progress:
                Jobs(session).set_progress(job.id, progress)

    @patient
    def succeed(self, job: JobView, outcome: str | None) -> None:
        """End the job well, and tell the table it planned with what came of it."""
        with self.fenced(job) as (session, row):
            tell_table(session, self.blobs, row)
            Jobs(session).succeed(job.id, outcome=outcome, summary=row.summary or {})

    @patient
    def fail(self, job: JobView, code: str, detail: str, more: Mapping[str, Any]) -> None:
        """End the job as failed; what helps to find the cause goes into its history."""
        with self.fenced(job) as (session, _):
            if more:
                Events(session).append(job.id, "log", more)
            Jobs(session).fail(job.id, code=code, detail=detail, errors=more.get("errors", ()))

    @patient
    def finish_cancel(self, job_id: str, workflow_id: str) -> None:
        """End a job whose cancelling was asked for; anything else is left as it is."""
        with self.database.write() as session:
            row = session.get(PruneJobRow, job_id, with_for_update=True)
            if row is not None and row.status == JobStatus.CANCELLING and row.workflow_id == workflow_id:
                Jobs(session).finish_cancel(job_id)

    @patient
    def end(self, job: JobView) -> dict[str, str] | None:
        """Return `status`, and `outcome` or `error` where there is one, of a job that has ended under this workflow."""
        with self.database.read() as session:
            row = Jobs(session).get(job.id)
            if row is None or row.workflow_id != job.workflow_id or not JobStatus(row.status).ended:
                return None
            told = {"status": row.status, "outcome": row.outcome, "error": (row.failure or {}).get("code")}
            return {name: value for name, value in told.items() if value}

    @patient
    def hand_back(self, job: JobView) -> None:
        """Leave the job to whoever is free, without counting a lost worker."""
        with self.database.write() as session:
            row = session.get(PruneJobRow, job.id, with_for_update=True)
            if row is not None and row.worker_id == self.worker_id and not JobStatus(row.status).ended:
                row.worker_id = None
                Events(session).append(job.id, "log", {"text": "The worker stops; another one will go on."})

    @contextmanager
    def fenced(self, job: JobView) -> Iterator[tuple[Session, PruneJobRow]]:
        """A transaction on the job's row, which must be this worker's."""
        with decided(self.database) as session:
            # The row stays locked until the commit, so the job cannot be taken away between check and write.
            row = session.get(PruneJobRow, job.id, with_for_update=True, populate_existing=True)
            try:
                fence(row, job, self.worker_id)
            except Fenced:
                log.warning("write refused", action="fenced", job_id=job.id, worker_id=self.worker_id)
                raise
            assert row is not None
            yield session, row

    def record(self, session: Session, job: JobView, kept: Kept) -> None:
        """Make a stored file one of the job's."""
        Holds(session).lock(kept.blob.sha256)
        if not self.blobs.exists(kept.blob.sha256):
            # Somebody dropped an equal file between our storing it and this transaction.
            self.blobs.put_file(kept.source)
        Artifacts(session).save(
            job.id, kept.name, sha256=kept.blob.sha256, size_bytes=kept.blob.size_bytes,
            media_type=kept.media_type, hidden=kept.hidden,
        )  # fmt: skip

    @patient
    def drop(self, sha256s: list[str]) -> None:
        """Delete files that nothing refers to any more; only after the commit that made it so, or a crash loses both.

        Patient by itself, so that what was committed before is not repeated with it.
        """
        for sha256 in sha256s:
            with self.database.write() as session:
                Holds(session).lock(sha256)
                if not Holds(session).is_referenced(sha256):
                    self.blobs.delete(sha256)


@patient
def keep(blobs: BlobStore, output: Output, path: Path) -> Kept:
    """Store an output a step left."""
    return Kept(
        name=output.name, blob=blobs.put_file(path), source=path, media_type=output.media_type, hidden=not output.public
    )


def _deadline(session: Session, row: PruneJobRow) -> float | None:
    """Return when the job's time is up, by this process's monotonic clock; the database's says how much is gone."""
    minutes = row.spec.get("timeout_minutes")
    if minutes is None or row.started_at is None:
        return None
    now = session.scalar(select(database_now()))
    assert isinstance(now, datetime)
    return time.monotonic() + 60 * float(minutes) - (now - row.started_at).total_seconds()
