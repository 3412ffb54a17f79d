"""A disk that fills up: an answer that says so, nothing half-written, and a service that goes on when there is room."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from app.main import create_app
from app.migrate import migrate
from app.settings import Settings
from app.store.disk import is_full
from app.store.repositories import Workers
from secateur.upload_schemas import PIECE
from tests.disks import small_disk, small_files

LIMIT_BYTES = 3_000_000
WEIGHTS = (100).to_bytes(8, "little") + b'{"a": 1}' + bytes(4_000_000)


@pytest.fixture(params=["disk", "limit"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TestClient]:
    """A service whose files have no room for the weights."""
    settings = Settings(home=tmp_path / "home", worker_wait_s=0.0)
    limit = small_disk(settings.blobs_folder, LIMIT_BYTES) if request.param == "disk" else nullcontext()
    with limit:
        migrate(settings)
        with TestClient(create_app(settings), base_url="http://127.0.0.1:8117") as client:
            services = client.app.state.services  # type: ignore[attr-defined]
            with services.database.write() as session:
                Workers(session).register("h/0:a", slot="h/0", device_id="local")
            yield client


def limited(request: pytest.FixtureRequest) -> object:
    return small_files(LIMIT_BYTES) if "limit" in request.node.callspec.id else nullcontext()


def files(client: TestClient) -> list[Path]:
    folder = client.app.state.services.settings.blobs_folder  # type: ignore[attr-defined]
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]


def test_an_upload_that_does_not_fit_is_refused_and_nothing_stays(
    client: TestClient, request: pytest.FixtureRequest
) -> None:
    with limited(request):  # type: ignore[attr-defined]
        answer = client.post("/v1/models", data={"name": "n", "arch": "cifar/resnet20"}, files={"file": ("m", WEIGHTS)})
    assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
    assert files(client) == []
    assert client.get("/v1/models").json()["items"] == []


def test_a_piece_that_does_not_fit_is_refused_and_sent_again_when_there_is_room(
    client: TestClient, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.pieces.require_room", lambda services, size_bytes: None)
    url = client.post("/v1/uploads", json={"purpose": "model", "size_bytes": len(WEIGHTS)}).headers["location"]
    headers = {"Upload-Offset": "0", "Content-Type": PIECE}
    assert client.patch(url, content=WEIGHTS[:1_000_000], headers=headers).status_code == 204
    headers["Upload-Offset"] = "1000000"
    with limited(request):  # type: ignore[attr-defined]
        answer = client.patch(url, content=WEIGHTS[1_000_000:], headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
    assert client.head(url).headers["upload-offset"] == "1000000"
    assert sum(path.stat().st_size for path in files(client)) == 1_000_000
    assert client.patch(url, content=WEIGHTS[1_000_000:1_500_000], headers=headers).status_code == 204


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(28, "No space left on device"), True),
        (OSError(122, "Disk quota exceeded"), True),
        (FileNotFoundError(2, "No such file"), False),
        (OperationalError("INSERT", {}, Exception("database or disk is full")), True),
        (OperationalError("INSERT", {}, Exception("could not extend file: No space left on device")), True),
        (OperationalError("INSERT", {}, Exception("database is locked")), False),
    ],
)
def test_every_word_for_a_full_disk_is_known(error: Exception, full: bool) -> None:
    assert is_full(error) is full
