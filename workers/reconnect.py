"""What a Postgres that goes away and comes back must not do: keep workers waiting for long, or have a transaction made twice.

The job engine repeats what a lost connection interrupted, after pauses that double up to a minute: a database that was away
for eight seconds would keep a worker's steps, and its reaper, waiting for longer than it takes others to declare it dead.
A connection that cannot be made is therefore tried again before the engine hears of it: nothing was sent over it yet.

A transaction whose commit was not answered may have been made. Postgres remembers, by its number, and is asked.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from sqlalchemy import Dialect, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

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

    So whoever repeats what raised does nothing twice.
    """
    number, committing = None, False
    try:
        with database.write() as session:
            if database.engine.dialect.name == "postgresql":
                number = session.scalar(select(func.txid_current()))
            yield session
            session.flush()
            committing = True
    except DBAPIError as error:
        if not committing or number is None or not is_away(error) or not _was_made(database, number):
            raise


def _was_made(database: Database, number: int) -> bool:
    """Whether the transaction was committed; waits for a database that is away, or has not decided yet."""
    deadline = time.monotonic() + DATABASE_PATIENCE_S
    while True:
        try:
            with database.read() as session:
                status = session.scalar(select(func.txid_status(number)))
        except DBAPIError as error:
            if not is_away(error):
                raise
            status = "unknown"
        if status in ("committed", "aborted") or time.monotonic() > deadline:
            log.warning("commit was not answered", action="decide", transaction=number, status=status)
            return bool(status == "committed")
        time.sleep(TRY_EVERY_S)
