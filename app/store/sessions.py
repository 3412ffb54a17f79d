"""The database: one engine, short read and write transactions, the same on SQLite and Postgres."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.orm import Session

BUSY_TIMEOUT_MS = 30_000
IDLE_TRANSACTION_TIMEOUT_S = 5.0
"""Postgres ends a session that is silent for this long within a transaction: a frozen process must lock out nobody."""
LINK_TIMEOUT_S = 10
"""Silence of the network after which either end gives a connection to Postgres up, and how long a new one may take.

Without it a host that drops out of the network leaves both ends waiting: TCP sends again for a quarter of an hour, and a
reader that has nothing to send never learns of it. Longer than a switch takes to find another way, shorter than people wait.
"""


def postgres_url(url: str) -> str:
    """Return `url` with what libpq needs to notice a dead link and to read text, for every engine that connects; SQLite's as it is.

    What the URL itself says of the client stays; of `options`, ours come last and count.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "postgresql":
        return url
    server = {
        "idle_in_transaction_session_timeout": int(IDLE_TRANSACTION_TIMEOUT_S * 1000),
        # The same for the server's end: sessions of a host that is gone would hold their places for two hours.
        "tcp_keepalives_idle": LINK_TIMEOUT_S // 2,
        "tcp_keepalives_interval": 1,
        "tcp_keepalives_count": LINK_TIMEOUT_S // 2,
        "tcp_user_timeout": LINK_TIMEOUT_S * 1000,
    }
    client = {
        # A database in SQL_ASCII, which is what initdb makes in the C locale, would hand out bytes for text.
        "client_encoding": "utf8",
        "connect_timeout": LINK_TIMEOUT_S,
        "keepalives_idle": LINK_TIMEOUT_S // 2,
        "keepalives_interval": 1,
        "keepalives_count": LINK_TIMEOUT_S // 2,
        "tcp_user_timeout": LINK_TIMEOUT_S * 1000,
    }
    parsed = parsed.set(query={name: str(value) for name, value in client.items()} | dict(parsed.query))
    given = parsed.query.get("options", "")
    options = [
        *([given] if isinstance(given, str) else given),
        *(f"-c {name}={value}" for name, value in server.items()),
    ]
    return parsed.update_query_dict({"options": " ".join(options).strip()}).render_as_string(hide_password=False)


def make_engine(url: str, *, foreign_keys: bool = True, pool_size: int = 5, trusted_s: float = 0.0) -> Engine:
    """Return an engine for `url`, set up for many short transactions by several processes.

    A connection to Postgres that has rested for `trusted_s` is tried before it is used again.
    Raises ValueError for a database that is neither a SQLite file nor Postgres.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql":
        engine = create_engine(postgres_url(url), pool_size=pool_size, max_overflow=10, pool_pre_ping=not trusted_s)
        if trusted_s:
            _try_rested(engine, trusted_s)
        return engine
    if parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", ":memory:"):
        raise ValueError(f"{parsed.render_as_string()} is neither a SQLite file nor a Postgres database")
    engine = create_engine(parsed, pool_size=pool_size, max_overflow=10)
    _set_up_sqlite(engine, foreign_keys)
    return engine


def _try_rested(engine: Engine, trusted_s: float) -> None:
    @event.listens_for(engine, "checkin")
    def checkin(connection: Any, record: Any) -> None:
        record.info["rests_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def checkout(connection: Any, record: Any, proxy: Any) -> None:
        since = record.info.pop("rests_since", None)
        if since is not None and time.monotonic() - since >= trusted_s:
            try:
                engine.dialect.do_ping(connection)
            except engine.dialect.loaded_dbapi.Error as error:
                raise InvalidatePoolError from error  # the pool connects again, and so will all that rest


def _set_up_sqlite(engine: Engine, foreign_keys: bool) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, record: Any) -> None:
        connection.isolation_level = None  # we begin transactions ourselves, below
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        connection.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")
        connection.execute("PRAGMA synchronous=FULL")  # a submitted job outlives a power cut, in WAL mode too

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer takes the lock at once: a reader that turned writer half-way could only be refused.
        read_only = connection.get_execution_options().get("read_only", False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def set_wal(path: Path) -> None:
    """Switch the SQLite file to write-ahead logging, which it remembers; readers then never wait for a writer."""
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_MS / 1000)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()


class Database:
    """Hands out sessions; every `with` block is one transaction, so keep it short."""

    def __init__(self, url: str, *, pool_size: int = 5, trusted_s: float = 0.0) -> None:
        self.engine = make_engine(url, pool_size=pool_size, trusted_s=trusted_s)
        # In Postgres every statement sees what is committed when it begins, in a transaction or not: to read takes none.
        alone = {} if self.engine.dialect.name == "sqlite" else {"isolation_level": "AUTOCOMMIT"}
        self._read_engine = self.engine.execution_options(read_only=True, **alone)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that may write; committed when the block ends well, rolled back when it raises."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """For statements that only read: one transaction in SQLite, one each in Postgres, where that is the same."""
        with Session(self._read_engine, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        """Give back every connection."""
        self.engine.dispose()
