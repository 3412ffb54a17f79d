"""What a Postgres that goes away and comes back must not do: keep workers waiting for long, or have a transaction made twice.

The job engine repeats what a lost connection interrupted, after pauses that double up to a minute: a database that was away
for eight seconds would keep a worker's steps, and its reaper, waiting for longer than it takes others to declare it dead.
A connection that cannot be made is therefore tried again before the engine hears of it: nothing was sent over it yet.

A transaction whose commit was not answered may have been made. The last event that it told is there, or not. (Its number would
not do: a server that crashed gives the numbers of what it lost to others.)
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from sqlalchemy import Dialect, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.store.models import JobEventRow, PruneJobRow
from app.store.repositories.events import LAST
from app.store.sessions import Database, postgres_url
from workers.fence import DATABASE_PATIENCE_S, is_away

log = structlog.get_logger(__name__)

PATIENCE_S = 30.0
"""Shorter than `worker_cut_off_s` should be, after which the worker ends anyway."""
TRY_EVERY_S = 0.2


def patient_engine(url: str, *, pool_size: int, patience_s: float = PATIENCE_S) -> Engine | None:
    """Return an engine whose new connections wait up to `patience_s` for the server; None for SQLite, a file."""
    if make_url(url).get_backend_name() != "postgresql":
        return None
    engine = create_engine(postgres_url(url), pool_size=pool_size, max_overflow=0, pool_pre_ping=True)

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Dialect, record: Any, args: Any, params: Any) -> Any:
        deadline, said = time.monotonic() + patience_s, False
        while True:
            try:
                return dialect.connect(*args, **params)
            except dialect.loaded_dbapi.OperationalError as error:
                if time.monotonic() > deadline:
                    raise
                if not said:
                    log.warning("database is away", action="reconnect", error=str(error), patience_s=patience_s)
                    said = True
                time.sleep(TRY_EVERY_S)

    return engine


@contextmanager
def decided(database: Database) -> Iterator[Session]:
    """A transaction that may write, as `Database.write`; when the answer to its commit was lost, ends well if it was made.

    So whoever repeats what raised tells no event of a job twice.
    """
    last: dict[str, Any] | None = None
    try:
        with database.write() as session:
            yield session
            session.flush()
            last = session.info.get(LAST)
    except DBAPIError as error:
        if last is None or not is_away(error) or not _was_told(database, last):
            raise


def _was_told(database: Database, event: dict[str, Any]) -> bool:
    """Whether this very event is there; waits for a database that is away."""
    deadline = time.monotonic() + DATABASE_PATIENCE_S
    while True:
        try:
            with database.write() as session:
                # Who tells an event has locked its job: a server that is still about to commit is waited for.
                session.get(PruneJobRow, event["job_id"], with_for_update=True)
                row = session.get(JobEventRow, event["id"])
                found = row is not None and all(getattr(row, name) == value for name, value in event.items())
                log.warning("commit was not answered", action="decide", job_id=event["job_id"], made=found)
                return found
        except DBAPIError as error:
            if not is_away(error) or time.monotonic() > deadline:
                raise
        time.sleep(TRY_EVERY_S)
