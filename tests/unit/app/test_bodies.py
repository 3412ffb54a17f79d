"""Uploads that never come to an end: of endless bytes around the parts, of silence, of a byte now and then."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from fastapi.testclient import TestClient
from starlette.requests import Request

from app import bodies
from app.main import create_app
from app.migrate import migrate
from app.services import Services
from app.store.repositories import Workers
from tests.unit.app.conftest import make_settings

BEGIN = b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nnet\r\n'
HEADERS = {"Content-Type": "multipart/form-data; boundary=x"}
SMALL = {"max_model_bytes": 100_000, "max_body_bytes": 10_000}


def register_worker(client: TestClient) -> Services:
    """Without one no upload is even received."""
    services: Services = client.app.state.services  # type: ignore[attr-defined]
    with services.database.write() as session:
        Workers(session).register("h/0:a", slot="h/0", device_id="local")
    return services


@pytest.mark.parametrize(
    ("before", "status"),
    [(b"", 413), (BEGIN + b"--x--\r\n", 413), (b"--x\r\nA: ", 413)],
    ids=["in front", "behind", "in a header"],
)
def test_bytes_around_the_parts_are_limited(tmp_path: Any, before: bytes, status: int) -> None:

    settings = make_settings(tmp_path, **SMALL)
    migrate(settings)
    with TestClient(create_app(settings), base_url="http://127.0.0.1:8117") as client:
        register_worker(client)
        answer = client.post("/v1/models", content=before + b"y" * 1_000_000, headers=HEADERS)
    assert answer.status_code == status, answer.text
    assert not [path for path in settings.blobs_folder.rglob("*") if path.is_file()]


def read(messages: AsyncIterator[bytes]) -> list[bytes]:
    """What `chunks` gives of a body that comes so; raises as it does."""

    async def receive() -> Any:
        return {"type": "http.request", "body": await anext(messages), "more_body": True}

    async def run() -> list[bytes]:
        return [one async for one in bodies.chunks(Request({"type": "http", "headers": []}, receive))]

    return anyio.run(run)


async def drops(pause_s: float) -> AsyncIterator[bytes]:
    while True:
        yield b"x"
        await anyio.sleep(pause_s)


@pytest.mark.parametrize("pause_s", [60.0, 0.02], ids=["silence", "a byte now and then"])
def test_who_stops_speaking_or_speaks_too_slowly_is_given_up(monkeypatch: pytest.MonkeyPatch, pause_s: float) -> None:
    monkeypatch.setattr(bodies, "SILENCE_S", 0.2)
    with pytest.raises(TimeoutError):
        read(drops(pause_s))


def test_an_upload_in_which_silence_falls_leaves_nothing(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    services = register_worker(client)

    async def silence(request: Request) -> AsyncIterator[bytes]:
        yield BEGIN
        raise TimeoutError

    monkeypatch.setattr("app.multipart.chunks", silence)
    assert client.post("/v1/models", content=b"", headers=HEADERS).status_code == 400
    assert not [path for path in services.settings.blobs_folder.rglob("*") if path.is_file()]
