"""Services for the tests of the API."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.store.repositories import Devices
from tests.integration.api_service import Service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service on SQLite with a worker, shared by the tests of this file."""
    service = Service(tmp_path_factory.mktemp("api") / "home")
    with service.client, service.worker():
        yield service


@pytest.fixture
def idle(tmp_path: Path, empty_url: str) -> Iterator[Service]:
    """A service without a worker, on SQLite and on Postgres."""
    service = Service(tmp_path / "home", database_url=empty_url, worker_wait_s=0.0)
    with service.client:
        with service.services.database.write() as session:
            Devices(session).register("local", name="l", hardware="cpu", runtime="ort", runtime_version="1")
        yield service
