"""Alembic's entry: runs on the connection that `app.store.migrate` opened and locked."""

from typing import Any

from alembic import context

import app.store.file_models  # noqa: F401  (fills the metadata, with the models it imports)
from app.store.base import Base


def include_name(name: str | None, kind: str, parents: Any) -> bool:
    """Only our own tables: the job engine keeps its tables in the same database."""
    return kind != "table" or name in Base.metadata.tables


def run() -> None:
    """Migrate the connection given in the configuration's attributes."""
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=Base.metadata,
        include_name=include_name,
        render_as_batch=True,
        compare_type=True,
        transaction_per_migration=False,
    )
    context.run_migrations()


run()
