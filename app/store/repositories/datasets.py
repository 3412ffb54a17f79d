"""Uploaded images."""

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from app.store.base import new_id
from app.store.models import DEFAULT_PROJECT, DatasetRow
from app.store.repositories.pages import RowPage, newest_first

# Asked with every job that is submitted, and so made once.
_ONE = select(DatasetRow).where(DatasetRow.id == bindparam("id"))
_SHARED = _ONE.with_for_update(read=True)
_LOCKED = _ONE.with_for_update()


class Datasets:
    """The `dataset` table."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(
        self,
        *,
        name: str,
        sha256: str,
        size_bytes: int,
        image_size: int,
        mean: list[float],
        std: list[float],
        classes: list[str],
        num_images: dict[str, int],
        num_skipped: int,
        skipped: list[str],
        class_map: dict[str, int] | None,
        project_id: str = DEFAULT_PROJECT,
    ) -> DatasetRow:
        """Insert a checked dataset."""
        row = DatasetRow(
            id=new_id("dat"),
            project_id=project_id,
            name=name,
            sha256=sha256,
            size_bytes=size_bytes,
            image_size=image_size,
            mean=mean,
            std=std,
            classes=classes,
            num_images=num_images,
            num_skipped=num_skipped,
            skipped=skipped,
            class_map=class_map,
        )
        self._session.add(row)
        self._session.flush()
        return row

    def get(
        self, dataset_id: str, *, project_id: str | None = None, share: bool = False, lock: bool = False
    ) -> DatasetRow | None:
        """The dataset, or None; also where a `project_id` is given and it is another project's.

        `share` keeps others from deleting it until we commit, `lock` from using it.
        """
        query = _LOCKED if lock else _SHARED if share else _ONE
        row = self._session.scalar(query, {"id": dataset_id})
        return row if row is None or project_id in (None, row.project_id) else None

    def page(self, *, project_id: str | None = None, before: str | None = None, limit: int = 50) -> RowPage[DatasetRow]:
        """Newest first, optionally only those of one project."""
        query = select(DatasetRow)
        if project_id is not None:
            query = query.where(DatasetRow.project_id == project_id)
        return newest_first(self._session, query, DatasetRow.id, before=before, limit=limit)

    def delete(self, row: DatasetRow) -> None:
        """Remove the row; jobs that used it keep their report and forget the dataset."""
        self._session.delete(row)
        self._session.flush()
