"""The job engine's way to Postgres: a connection that cannot be made is tried again before the engine hears of it.

The engine repeats what a lost connection interrupted, after pauses that double up to a minute: a database that was away
for eight seconds would keep a worker's steps, and its reaper, waiting for longer than it takes others to declare it dead.
Nothing was sent over a connection that was not made yet, so trying again is always right.
"""

import time
from typing import Any

import structlog
from sqlalchemy import Dialect, Engine, create_engine, event, make_url

from app.store.sessions import postgres_url

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
