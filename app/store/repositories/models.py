"""Uploaded networks."""

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from app.store.base import new_id
from app.store.models import DEFAULT_PROJECT, ModelRow
from app.store.repositories.pages import RowPage, newest_first

# Asked with every job that is submitted, and so made once.
_ONE = select(ModelRow).where(ModelRow.id == bindparam("id"))
_SHARED = _ONE.with_for_update(read=True)
_LOCKED = _ONE.with_for_update()


class Models:
    """The `model` table."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(
        self,
        *,
        name: str,
        arch: str,
        sha256: str,
        size_bytes: int,
        num_parameters: int,
        num_outputs: int,
        input_shape: list[int] | None,
        class_names: list[str] | None,
        project_id: str = DEFAULT_PROJECT,
    ) -> ModelRow:
        """Insert a checked model."""
        row = ModelRow(
            id=new_id("mdl"),
            project_id=project_id,
            name=name,
            arch=arch,
            sha256=sha256,
            size_bytes=size_bytes,
            num_parameters=num_parameters,
            num_outputs=num_outputs,
            input_shape=input_shape,
            class_names=class_names,
        )
        self._session.add(row)
        self._session.flush()
        return row

    def get(
        self, model_id: str, *, project_id: str | None = None, share: bool = False, lock: bool = False
    ) -> ModelRow | None:
        """The model, or None; also where a `project_id` is given and it is another project's.

        `share` keeps others from deleting it until we commit, `lock` from using it.
        """
        query = _LOCKED if lock else _SHARED if share else _ONE
        row = self._session.scalar(query, {"id": model_id})
        return row if row is None or project_id in (None, row.project_id) else None

    def page(self, *, project_id: str | None = None, before: str | None = None, limit: int = 50) -> RowPage[ModelRow]:
        """Newest first, optionally only those of one project."""
        query = select(ModelRow)
        if project_id is not None:
            query = query.where(ModelRow.project_id == project_id)
        return newest_first(self._session, query, ModelRow.id, before=before, limit=limit)

    def delete(self, row: ModelRow) -> None:
        """Remove the row; jobs that used it keep their report and forget the model."""
        self._session.delete(row)
        self._session.flush()
