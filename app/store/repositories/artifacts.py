"""Files that jobs left."""

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.store.models import JobArtifactRow
from app.store.repositories.upsert import upsert


class Artifacts:
    """The `job_artifact` table."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def save(
        self, job_id: str, name: str, *, sha256: str, size_bytes: int, media_type: str, hidden: bool = False
    ) -> None:
        """Name a stored blob as a file of the job, replacing an earlier one of that name."""
        values = {"sha256": sha256, "size_bytes": size_bytes, "media_type": media_type, "hidden": hidden}
        upsert(self._session, JobArtifactRow, keys={"job_id": job_id, "name": name}, insert=values, update=values)

    def get(self, job_id: str, name: str) -> JobArtifactRow | None:
        """The file, or None."""
        return self._session.get(JobArtifactRow, (job_id, name))

    def list(self, job_id: str, *, hidden: bool = False) -> list[JobArtifactRow]:
        """Files of the job by name; those only the job itself needs when `hidden`."""
        query = select(JobArtifactRow).where(JobArtifactRow.job_id == job_id, JobArtifactRow.hidden == hidden)
        return [*self._session.scalars(query.order_by(JobArtifactRow.name))]

    def forget(self, job_id: str) -> None:
        """Let go of every file of the job; what nothing else names is collected later."""
        self._session.execute(delete(JobArtifactRow).where(JobArtifactRow.job_id == job_id))
