"""What the service no longer needs, removed: on a schedule in one API process at a time, and by `secateur gc`.

Rows go first and files after the commit, so that no row ever names a file that is gone. A file goes only while nobody
else may name it (`Holds.lock`), so several collections at once, or one that is killed anywhere, do no harm.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from app.pieces import abandon
from app.services import Services
from app.settings import Settings
from app.store.repositories import Audit, Expired, Holds, Leases, Uploads
from app.store.repositories.audit import FORGET_BATCH

log = structlog.get_logger(__name__)

_HOUR_S = 3600.0
_LEASE = "retention"


@dataclass(frozen=True, kw_only=True)
class Ages:
    """How old, in seconds, what must be that goes; None: it stays for ever."""

    jobs_s: float | None
    checkpoints_s: float
    uploads_s: float
    margin_s: float
    """Of files that nothing names, and of holds and half-written files whose process must have died."""
    audit_s: float | None
    workflows_s: float = 24 * _HOUR_S

    @classmethod
    def of(cls, settings: Settings) -> "Ages":
        """What the settings say."""
        return cls(
            jobs_s=settings.keep_jobs_days * 24 * _HOUR_S or None,
            checkpoints_s=settings.keep_checkpoints_hours * _HOUR_S,
            uploads_s=settings.uploads_hours * _HOUR_S,
            margin_s=settings.gc_margin_s,
            audit_s=settings.keep_audit_days * 24 * _HOUR_S or None,
        )


@dataclass(frozen=True, kw_only=True)
class Gone:
    """Something that went, or in a dry run would."""

    kind: str
    """`job`, `checkpoints`, `upload`, `file`, `half-written`, `workflows` or `audit`."""
    name: str
    num_files: int = 1
    size_bytes: int = 0


def collect(services: Services, ages: Ages, *, dry_run: bool = False) -> Iterator[Gone]:
    """Yield everything as it goes; with `dry_run` nothing is changed. What is not asked for does not go."""
    yield from _jobs(services, ages, dry_run)
    yield from _checkpoints(services, ages, dry_run)
    yield from _uploads(services, ages, dry_run)
    if not dry_run:
        with services.database.write() as session:
            abandoned = Holds(session).release_old(ages.margin_s)
        services.drop_blobs(abandoned)
        num_left = services.blobs.delete_stale_temporaries(ages.margin_s)
        if num_left:
            yield Gone(kind="half-written", name="files of killed processes", num_files=num_left)
    yield from _files(services, ages, dry_run)
    num_workflows = services.queue.forget_ended(ages.workflows_s, dry_run=dry_run)
    if num_workflows:
        yield Gone(kind="workflows", name="of the job engine", num_files=num_workflows)
    yield from _audit(services, ages, dry_run)


def tend(services: Services, is_stopping: Callable[[], bool]) -> None:
    """Collect once, unless another process has done so within the last interval; log what went."""
    with services.database.write() as session:
        if not Leases(session).take(_LEASE, 0.9 * services.settings.gc_every_s):
            return
    num_gone, num_bytes = 0, 0
    for gone in collect(services, Ages.of(services.settings)):
        num_gone, num_bytes = num_gone + gone.num_files, num_bytes + gone.size_bytes
        if is_stopping():
            break
    log.info("tidied up", action="retention", num_gone=num_gone, size_bytes=num_bytes)


def _jobs(services: Services, ages: Ages, dry_run: bool) -> Iterator[Gone]:
    if ages.jobs_s is None:
        return
    with services.database.read() as session:
        old = Expired(session).jobs(ages.jobs_s)
    for job in old:
        if not dry_run:
            with services.database.write() as session:
                files = Expired(session).delete_job(job.id, ages.jobs_s)
            services.drop_blobs(files)
        yield Gone(kind="job", name=job.id, num_files=job.num_files, size_bytes=job.size_bytes)


def _checkpoints(services: Services, ages: Ages, dry_run: bool) -> Iterator[Gone]:
    with services.database.read() as session:
        old = Expired(session).checkpoints(ages.checkpoints_s)
    for job in old:
        if not dry_run:
            with services.database.write() as session:
                files = Expired(session).delete_checkpoints(job.id)
            services.drop_blobs(files)
        yield Gone(kind="checkpoints", name=job.id, num_files=job.num_files, size_bytes=job.size_bytes)


def _uploads(services: Services, ages: Ages, dry_run: bool) -> Iterator[Gone]:
    """Uploads that nobody goes on with, and pieces whose row is gone."""
    with services.database.read() as session:
        expired, known = Uploads(session).expired(ages.uploads_s), Uploads(session).all_ids()
    folder = services.blobs.uploads_folder
    strays = [path.name for path in folder.iterdir() if path.name not in known]
    for upload_id in (*expired, *strays):
        try:
            stat = (folder / upload_id).stat()
        except FileNotFoundError:
            stat = None
        if upload_id in strays and (stat is None or _age_s(datetime.fromtimestamp(stat.st_mtime, UTC)) < ages.margin_s):
            continue
        # Somebody may have gone on with it since it was listed.
        if dry_run or abandon(services, upload_id, ages.uploads_s):
            yield Gone(kind="upload", name=upload_id, size_bytes=stat.st_size if stat else 0)


def _files(services: Services, ages: Ages, dry_run: bool) -> Iterator[Gone]:
    """Stored files that no row names: what a process left that was killed between storing and naming, or the reverse."""
    # Listed before the rows are read: what is stored and named in between is no stray.
    listed = [one for one in services.blobs.stored() if _age_s(one.modified_at) >= ages.margin_s]
    with services.database.read() as session:
        holds = Holds(session)
        named = holds.all_referenced()
        if holds.everything_is_held():
            return
    for one in listed:
        if one.sha256 in named:
            continue
        if dry_run or services.drop_blobs([one.sha256]):
            yield Gone(kind="file", name=one.sha256, size_bytes=one.size_bytes)


def _audit(services: Services, ages: Ages, dry_run: bool) -> Iterator[Gone]:
    """Rows of the audit trail, a batch in each transaction; a dry run counts the first one."""
    num = FORGET_BATCH if ages.audit_s is not None else 0
    while num == FORGET_BATCH:
        with services.database.read() if dry_run else services.database.write() as session:
            num = Audit(session).forget(ages.audit_s or 0.0, dry_run=dry_run)
        if num:
            yield Gone(kind="audit", name="rows of the trail", num_files=num)
        if dry_run:
            return


def _age_s(moment: datetime) -> float:
    return (datetime.now(UTC) - moment) / timedelta(seconds=1)
