"""Projects, and what they use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select, union_all
from sqlalchemy.orm import Session

from app.store.base import new_id
from app.store.models import DatasetRow, JobArtifactRow, ModelRow, ProjectRow, PruneJobRow
from app.store.repositories.jobs import ACTIVE
from app.store.repositories.pages import RowPage, newest_first


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a project has at this moment."""

    num_active_jobs: int = 0
    stored_bytes: int = 0


class Projects:
    """The `project` table."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, *, name: str, limits: Mapping[str, int | None]) -> ProjectRow:
        """Insert a project. Raises sqlalchemy.exc.IntegrityError when there is one of this name."""
        row = ProjectRow(id=new_id("prj"), name=name, limits=dict(limits))
        self._session.add(row)
        self._session.flush()
        return row

    def get(self, project_id: str, *, lock: bool = False) -> ProjectRow | None:
        """The project, or None. Who adds what is counted takes the `lock` first, and so counts what others have added."""
        query = select(ProjectRow).where(ProjectRow.id == project_id)
        if lock:
            # Rows that refer to the project may still be added by those who do not count.
            query = query.with_for_update(key_share=True)
        return self._session.scalar(query)

    def page(self, *, before: str | None = None, limit: int = 50) -> RowPage[ProjectRow]:
        """Newest first; `default` is the oldest."""
        return newest_first(self._session, select(ProjectRow), ProjectRow.id, before=before, limit=limit)

    def num_active_jobs(self, project_id: str) -> int:
        """Jobs and builds of the project that have not ended."""
        return self.usage([project_id], stored=False)[project_id].num_active_jobs

    def stored_bytes(self, project_id: str) -> int:
        """Bytes of the project's models, datasets and files of jobs; a blob two rows name counts twice."""
        return self._stored([project_id]).get(project_id, 0)

    def usage(self, project_ids: Sequence[str], *, stored: bool = True) -> dict[str, Usage]:
        """What each of the projects has; bytes only where `stored`."""
        active = (
            select(PruneJobRow.project_id, func.count())
            .where(PruneJobRow.project_id.in_(project_ids), PruneJobRow.status.in_(ACTIVE))
            .group_by(PruneJobRow.project_id)
        )
        counts = {row[0]: row[1] for row in self._session.execute(active)}
        sizes = self._stored(project_ids) if stored else {}
        return {one: Usage(num_active_jobs=counts.get(one, 0), stored_bytes=sizes.get(one, 0)) for one in project_ids}

    def _stored(self, project_ids: Sequence[str]) -> dict[str, int]:
        owned = [select(kind.project_id, kind.size_bytes) for kind in (ModelRow, DatasetRow)]
        files = select(PruneJobRow.project_id, JobArtifactRow.size_bytes).join(
            JobArtifactRow, JobArtifactRow.job_id == PruneJobRow.id
        )
        columns = ("project_id", "size_bytes")
        queries = [query.where(query.selected_columns.project_id.in_(project_ids)) for query in (*owned, files)]
        every = union_all(*queries).subquery()
        project_id, size_bytes = (every.c[name] for name in columns)
        rows = self._session.execute(select(project_id, func.sum(size_bytes)).group_by(project_id))
        return {one: int(total) for one, total in rows}
