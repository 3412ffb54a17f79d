"""Alive and ready are two things, and both are cheap to ask."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.api import health
from app.main import create_app
from app.migrate import migrate
from app.services import Services
from app.settings import Settings
from app.store.repositories import Workers

HERE = "http://127.0.0.1:8117"


@pytest.fixture
def client(tmp_path: Path, empty_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A client of an app that looks anew each time."""
    monkeypatch.setattr(health, "FRESH_S", 0.0)
    settings = Settings(home=tmp_path / "home", database_url=empty_url)
    migrate(settings)
    with TestClient(create_app(settings), base_url=HERE) as client:
        yield client


def services(client: TestClient) -> Services:
    found: Services = client.app.state.services  # type: ignore[attr-defined]
    return found


def test_ready_names_every_check(client: TestClient) -> None:
    body = client.get("/readyz").json()
    assert body["status"] == "degraded" and list(body["checks"]) == ["database", "migrations", "store", "workers"]
    assert [check["ok"] for check in body["checks"].values()] == [True, True, True, False]
    with services(client).database.write() as session:
        Workers(session).register("h/0:a", slot="h/0", device_id="local")
    body = client.get("/readyz").json()
    assert (body["status"], body["num_live_workers"]) == ("ready", 1)
    assert all(check == {"ok": True} for check in body["checks"].values())


def test_a_missing_migration_makes_it_not_ready(client: TestClient) -> None:
    with services(client).database.write() as session:
        session.connection().exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert not answer.json()["checks"]["migrations"]["ok"] and answer.json()["checks"]["store"]["ok"]


def test_a_database_that_is_away_makes_it_not_ready_and_leaves_it_alive(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with services(client).database.write() as session:
        session.connection().exec_driver_sql("ALTER TABLE alembic_version RENAME TO gone")
        session.connection().exec_driver_sql("ALTER TABLE worker RENAME TO gone_too")
    answer = client.get("/readyz")
    assert answer.status_code == 503 and not answer.json()["checks"]["database"]["ok"]
    assert client.get("/healthz").json() == {"status": "ok"}


def test_a_store_that_takes_no_files_makes_it_not_ready(client: TestClient) -> None:
    folder = services(client).settings.blobs_folder / "tmp"
    folder.rmdir()
    folder.write_text("a file where the folder was")
    answer = client.get("/readyz")
    assert answer.status_code == 503 and not answer.json()["checks"]["store"]["ok"]
    folder.unlink()
    folder.mkdir()
    assert client.get("/readyz").status_code == 200
    assert list(folder.iterdir()) == [], "the check leaves nothing"


def test_many_who_ask_at_once_cost_one_look(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    migrate(settings)
    with TestClient(create_app(settings), base_url=HERE) as client:
        client.get("/readyz")
        database = services(client).database
        before = database.engine.pool.checkedin()  # type: ignore[attr-defined]
        began = time.monotonic()
        with database.write() as session:
            Workers(session).register("h/0:a", slot="h/0", device_id="local")
        assert client.get("/readyz").json()["num_live_workers"] == 0, "still the last look's answer"
        assert time.monotonic() - began < health.FRESH_S and before >= 1


def test_a_service_that_stops_is_not_ready(client: TestClient) -> None:
    client.app.state.stopping.set()  # type: ignore[attr-defined]
    assert client.get("/readyz").json()["detail"] == "The service is stopping."
    assert client.get("/healthz").status_code == 200
