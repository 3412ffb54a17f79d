"""A migrated store and an app on it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.migrate import migrate
from app.services import Services
from app.settings import Settings
from app.store.migrate import migrate_tables
from app.store.sessions import Database
from tests.unit.app.access_world import World


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of an empty service on SQLite, impatient."""
    return make_settings(tmp_path)


def make_settings(tmp_path: Path, **values: Any) -> Settings:
    """Settings as a test needs them."""
    defaults = {"home": tmp_path / "home", "events_poll_s": 0.01, "worker_wait_s": 0.0, "inspect_timeout_s": 5.0}
    return Settings(**(defaults | values))


@pytest.fixture
def database(empty_url: str) -> Iterator[Database]:
    """A migrated database, once on SQLite and once on Postgres."""
    migrate_tables(empty_url)
    database = Database(empty_url)
    yield database
    database.close()


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    """A client of an app on SQLite, without a worker."""
    migrate(settings)
    with TestClient(create_app(settings), base_url="http://127.0.0.1:8117") as client:
        yield client


@pytest.fixture
def services(client: TestClient) -> Services:
    """What the app of `client` works with."""
    services: Services = client.app.state.services  # type: ignore[attr-defined]
    return services


@pytest.fixture
def world(tmp_path: Path, empty_url: str) -> Iterator[World]:
    """A service that asks for keys, once on SQLite and once on Postgres."""
    world = World(tmp_path, database_url=empty_url)
    with world.client:
        world.fill()
        yield world
