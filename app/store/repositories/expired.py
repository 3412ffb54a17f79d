"""What has been kept for long enough."""

from dataclasses import dataclass

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from app.store.base import database_now
from app.store.models import JobArtifactRow, PruneJobRow
from secateur.schemas import JobStatus

_ENDED = tuple(status for status in JobStatus if status.ended)
_HIDDEN = JobArtifactRow.hidden.is_(True)


@dataclass(frozen=True, kw_only=True)
class OldJob:
    """A job of which something may go."""

    id: str
    num_files: int
    size_bytes: int
    """Of these files; equal files of other jobs are not counted out."""


class Expired:
    """Jobs that have ended, their files and their checkpoints."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def jobs(self, max_age_s: float) -> list[OldJob]:
        """Jobs that ended longer ago than this, oldest first, with all their files."""
        files = func.count(JobArtifactRow.name), func.coalesce(func.sum(JobArtifactRow.size_bytes), 0)
        query = (
            select(PruneJobRow.id, *files)
            .outerjoin(JobArtifactRow, JobArtifactRow.job_id == PruneJobRow.id)
            .where(PruneJobRow.status.in_(_ENDED), PruneJobRow.ended_at < database_now(-max_age_s))
            .group_by(PruneJobRow.id)
        )
        return self._found(query)

    def delete_job(self, job_id: str, max_age_s: float) -> list[str]:
        """Delete the job with its events and files, unless it was retried meanwhile; returns the SHA-256 of the files."""
        row = self._session.get(PruneJobRow, job_id, with_for_update=True, populate_existing=True)
        if row is None or row.status not in _ENDED:
            return []
        files = list(self._session.scalars(select(JobArtifactRow.sha256).where(JobArtifactRow.job_id == job_id)))
        self._session.execute(
            delete(PruneJobRow).where(PruneJobRow.id == job_id, PruneJobRow.ended_at < database_now(-max_age_s))
        )
        return files

    def checkpoints(self, max_age_s: float) -> list[OldJob]:
        """Jobs that succeeded longer ago than this and still have files only they needed, with those files."""
        files = func.count(JobArtifactRow.name), func.sum(JobArtifactRow.size_bytes)
        query = (
            select(PruneJobRow.id, *files)
            .join(JobArtifactRow, JobArtifactRow.job_id == PruneJobRow.id)
            .where(_HIDDEN, PruneJobRow.status == JobStatus.SUCCEEDED, PruneJobRow.ended_at < database_now(-max_age_s))
            .group_by(PruneJobRow.id)
        )
        return self._found(query)

    def delete_checkpoints(self, job_id: str) -> list[str]:
        """Delete the rows of a succeeded job's hidden files; returns the SHA-256 of the files."""
        query = delete(JobArtifactRow).where(_HIDDEN, JobArtifactRow.job_id == job_id)
        return list(self._session.scalars(query.returning(JobArtifactRow.sha256)))

    def _found(self, query: Select[str, int, int]) -> list[OldJob]:
        rows = self._session.execute(query.order_by(PruneJobRow.id))
        return [OldJob(id=job_id, num_files=count, size_bytes=int(size)) for job_id, count, size in rows]
