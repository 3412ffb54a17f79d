"""Bring our tables up to date; any number of processes may do so at once."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, make_url, text

from app.store.sessions import make_engine, set_wal

_LOCK_KEY = 0x5ECA7E02  # any constant, the same in every version


def migrate_tables(url: str) -> None:
    """Create the SQLite file (in WAL mode) where there is none and apply every missing migration.

    One transaction under one lock: of two processes that start together the second finds the work done.
    """
    with _file_lock(url):
        # Batch migrations rebuild SQLite tables, and a dropped old table must not cascade into others.
        engine = make_engine(url, foreign_keys=False)
        try:
            with engine.begin() as connection:
                if connection.dialect.name == "postgresql":
                    # It is silent while it reads migrations, on a busy machine for long.
                    connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
                command.upgrade(_configuration(connection), "head")
        finally:
            engine.dispose()


def is_current(connection: Connection) -> bool:
    """True when no migration is missing."""
    return MigrationContext.configure(connection).get_current_revision() == _head()


@cache
def _head() -> str | None:
    """The newest migration of this code; reading them all takes too long for a question that is asked every second."""
    return ScriptDirectory.from_config(_configuration(None)).get_current_head()


def _configuration(connection: Connection | None) -> Config:
    configuration = Config()
    configuration.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    configuration.attributes["connection"] = connection
    return configuration


@contextmanager
def _file_lock(url: str) -> Iterator[None]:
    """Hold a lock file beside the SQLite file: the switch to WAL does not wait for other processes by itself."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        yield
        return
    path = Path(parsed.database)
    path.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{path}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        set_wal(path)
        yield
