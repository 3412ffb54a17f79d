"""Migrations on both databases."""

import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, update
from sqlalchemy.exc import IntegrityError

from app.migrate import migrate
from app.settings import Settings
from app.store import sessions
from app.store.base import Base
from app.store.migrate import _configuration, is_current, migrate_tables
from app.store.models import DEFAULT_PROJECT, PruneJobRow
from app.store.repositories import Idempotency, Jobs, Luts
from app.store.sessions import Database, make_engine

ROOT = Path(__file__).parents[3]


def test_migrations_make_exactly_the_tables_of_the_models(empty_url: str) -> None:
    migrate_tables(empty_url)
    engine = make_engine(empty_url)
    with engine.connect() as connection:
        assert is_current(connection)
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


@pytest.mark.postgres
def test_a_migration_may_be_silent_for_longer_than_other_transactions(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade = command.upgrade

    def read_slowly(*arguments: Any) -> None:
        time.sleep(1.0)
        upgrade(*arguments)

    monkeypatch.setattr(sessions, "IDLE_TRANSACTION_TIMEOUT_S", 0.5)
    monkeypatch.setattr(command, "upgrade", read_slowly)
    migrate_tables(postgres_url)
    engine = make_engine(postgres_url)
    with engine.connect() as connection:
        assert is_current(connection)
    engine.dispose()


def test_a_table_of_an_older_service_becomes_its_first_version(empty_url: str) -> None:
    if empty_url.startswith("sqlite"):
        Path(empty_url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    engine = make_engine(empty_url, foreign_keys=False)
    now = "2026-01-01 00:00:00.000000+00:00"
    with engine.begin() as connection:
        command.upgrade(_configuration(connection), "0001")
        connection.exec_driver_sql(f"INSERT INTO device VALUES ('local', 'l', 'cpu', 'ort', '1', '{now}')")
        connection.exec_driver_sql(
            f"INSERT INTO lut VALUES ('lut_1', 'local', 'f', '{{}}', '{'a' * 64}', 5, 2, 8, 0.01, 3.0, '{now}', '{now}')"
        )
    engine.dispose()
    migrate_tables(empty_url)
    database = Database(empty_url)
    with database.read() as session:
        row = Luts(session).get("lut_1")
        assert row is not None and (row.version, row.published_version, row.imported) == (1, None, False)
        (version,) = Luts(session).versions("lut_1").rows
        assert (version.number, version.blob_sha256, version.num_entries) == (1, "a" * 64, 5)
    database.close()


def test_what_an_older_service_held_belongs_to_the_default_project(empty_url: str) -> None:
    if empty_url.startswith("sqlite"):
        Path(empty_url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    engine = make_engine(empty_url, foreign_keys=False)
    now = "2026-01-01 00:00:00.000000+00:00"
    columns = "id, kind, name, spec, device_id, status, progress, attempt, num_lost, workflow_id, tables, created_at"
    with engine.begin() as connection:
        command.upgrade(_configuration(connection), "0003")
        connection.exec_driver_sql(
            f"INSERT INTO idempotency_key VALUES ('POST /x', 'k', '', 202, '/', '{{}}', '{now}')"
        )
        connection.exec_driver_sql(
            f"INSERT INTO prune_job ({columns}) VALUES "
            f"('job_1', 'prune', '', '{{}}', 'local', 'queued', 0, 0, 0, 'w', '[]', '{now}')"
        )
    engine.dispose()
    migrate_tables(empty_url)
    database = Database(empty_url)
    with database.read() as session:
        job = Jobs(session).get("job_1", project_id=DEFAULT_PROJECT)
        assert job is not None and job.status == "queued"
        assert Idempotency(session).find("POST /x", "k", max_age_s=1e9) is not None
        assert Idempotency(session, "prj_1").find("POST /x", "k", max_age_s=1e9) is None
    with pytest.raises(IntegrityError), database.write() as session:
        session.execute(update(PruneJobRow).values(status="nonsense"))
    database.close()
    engine = make_engine(empty_url, foreign_keys=False)
    with engine.begin() as connection:
        command.downgrade(_configuration(connection), "0003")
        assert connection.exec_driver_sql("SELECT count(*) FROM prune_job").scalar() == 1
    engine.dispose()


def test_processes_that_start_at_once_migrate_once(empty_url: str, tmp_path: Path) -> None:
    environment = {"SECATEUR_HOME": str(tmp_path / "home"), "SECATEUR_DATABASE_URL": empty_url, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "app.upkeep", "migrate"], env=environment, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    ends = [(process.communicate(timeout=60)[1], process.returncode) for process in processes]
    assert [code for _, code in ends] == [0, 0, 0], ends
    database = Database(empty_url)
    with database.read() as session:
        assert is_current(session.connection())
    database.close()


def test_our_tables_live_beside_the_job_engines(empty_url: str, tmp_path: Path) -> None:
    migrate(Settings(home=tmp_path, database_url=empty_url))
    migrate(Settings(home=tmp_path, database_url=empty_url))
    engine = make_engine(empty_url)
    names = set(inspect(engine).get_table_names())
    if engine.dialect.name == "postgresql":
        names |= set(inspect(engine).get_table_names(schema="dbos"))
    engine.dispose()
    assert set(Base.metadata.tables) < names and "workflow_status" in names


def test_a_sqlite_file_is_in_wal_mode_with_foreign_keys_on(sqlite_url: str) -> None:
    migrate_tables(sqlite_url)
    connection = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    engine = make_engine(sqlite_url)
    with engine.connect() as wrapped:
        assert wrapped.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    engine.dispose()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://host/db"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="neither a SQLite file nor a Postgres"):
        make_engine(url)
