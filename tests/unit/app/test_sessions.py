"""Transactions of processes that stop in the middle."""

import uuid

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError

from app.store import sessions
from app.store.migrate import migrate_tables
from app.store.sessions import Database, postgres_url


@pytest.mark.postgres
def test_a_transaction_of_a_frozen_process_keeps_its_locks_for_a_moment_only(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "IDLE_TRANSACTION_TIMEOUT_S", 0.5)
    frozen, other = Database(postgres_url), Database(postgres_url)
    update = text("UPDATE a SET value = value + 1")
    with other.write() as session:
        session.execute(text("CREATE TABLE a (value INTEGER)"))
        session.execute(text("INSERT INTO a VALUES (0)"))
    with pytest.raises(DBAPIError, match="idle-in-transaction"), frozen.write() as session:
        session.execute(update)
        with other.write() as heir:
            heir.execute(update)
        session.execute(update)
    with other.read() as session:
        assert session.execute(text("SELECT value FROM a")).scalar() == 1
    frozen.close()
    other.close()


@pytest.mark.postgres
def test_both_ends_of_every_connection_notice_a_dead_link(postgres_server: str) -> None:
    url = postgres_url(
        f"{postgres_server}{'&' if '?' in postgres_server else '?'}connect_timeout=3&options=-c%20work_mem%3D1MB"
    )
    asked = make_url(url).query
    assert asked["connect_timeout"] == "3", "what the URL says stays"
    assert {"tcp_user_timeout", "keepalives_idle", "keepalives_interval", "keepalives_count"} <= set(asked)
    database = Database(url.replace("postgresql://", "postgresql+psycopg://"))
    with database.read() as session:
        shown = {
            name: session.execute(text(f"SHOW {name}")).scalar()
            for name in ("work_mem", "idle_in_transaction_session_timeout")
        }
    assert shown == {"work_mem": "1MB", "idle_in_transaction_session_timeout": "5s"}
    database.close()


@pytest.mark.postgres
def test_text_is_text_in_a_database_without_an_encoding(postgres_server: str) -> None:
    name = f"ascii_{uuid.uuid4().hex}"
    server = make_url(postgres_server).set(drivername="postgresql+psycopg")
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(
            text(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
        )
    url = server.set(database=name).render_as_string(hide_password=False)
    try:
        migrate_tables(url)
        with Database(url).write() as session:
            session.execute(text("CREATE TABLE a (name TEXT)"))
            session.execute(text("INSERT INTO a VALUES (:name)"), {"name": "Zweigstück"})
            assert session.scalar(text("SELECT name FROM a")) == "Zweigstück"
    finally:
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        engine.dispose()


def test_the_url_of_a_file_stays_as_it_is() -> None:
    assert postgres_url("sqlite:////data/secateur.db") == "sqlite:////data/secateur.db"


@pytest.mark.postgres
def test_a_connection_that_has_rested_is_tried_and_one_that_fails_costs_one_request(postgres_url: str) -> None:
    trusting, other = Database(postgres_url, trusted_s=60.0), Database(postgres_url, trusted_s=1e-9)
    end = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid() AND datname = current_database()"
    )
    one = text("SELECT 1")
    for database in (trusting, other):
        with database.read() as session:
            session.execute(one)
    with Database(postgres_url).write() as session:
        session.execute(end)
    with other.read() as session:
        assert session.scalar(one) == 1
    with pytest.raises(OperationalError), trusting.read() as session:
        session.execute(one)
    with trusting.read() as session:
        assert session.scalar(one) == 1
    trusting.close()
    other.close()
