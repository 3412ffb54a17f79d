"""Uploads in several pieces: they go on where they stopped, whatever stopped them, and leave nothing when they end badly."""

import base64
import fcntl
import hashlib
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect, Request

from app import bodies, pieces
from app.main import create_app
from app.services import Services
from app.settings import Settings
from app.store.repositories import Uploads
from secateur.upload_schemas import PIECE

HEAD = (100).to_bytes(8, "little") + b'{"a": 1}'


def weights(size: int) -> bytes:
    return (HEAD + os.urandom(size))[:size]


def begin(client: TestClient, content: bytes, **more: Any) -> str:
    body = {"purpose": "model", "size_bytes": len(content), **more}
    answer = client.post("/v1/uploads", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.headers["upload-offset"] == "0" and answer.json()["complete"] is False
    assert answer.headers["location"] == f"/v1/uploads/{answer.json()['id']}"
    return str(answer.json()["id"])


def send(client: TestClient, upload: str, offset: int, piece: Any, **headers: str) -> Response:
    headers = {
        "Upload-Offset": str(offset),
        "Content-Type": PIECE,
        **{k.replace("_", "-"): v for k, v in headers.items()},
    }
    return client.patch(f"/v1/uploads/{upload}", content=piece, headers=headers)


def checksum(piece: bytes) -> str:
    return "sha256 " + base64.b64encode(hashlib.sha256(piece).digest()).decode()


def refused(answer: Response, status: int, code: str) -> Response:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    return answer


def offset(client: TestClient, upload: str) -> int:
    head = client.head(f"/v1/uploads/{upload}")
    assert head.status_code == 200 and head.content == b""
    assert head.headers["upload-offset"] == str(client.get(f"/v1/uploads/{upload}").json()["offset"])
    return int(head.headers["upload-offset"])


def spool(services: Services) -> list[Path]:
    return list(services.blobs.uploads_folder.iterdir())


@hypothesis_settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=6), data=st.data())
def test_pieces_of_any_size_become_the_file(
    client: TestClient, services: Services, sizes: list[int], data: st.DataObject
) -> None:
    content = weights(sum(sizes) + 20)
    sizes[-1] += 20
    upload, at = begin(client, content), 0
    for size in sizes:
        piece = content[at : at + size]
        with_checksum = {"Upload_Checksum": checksum(piece)} if data.draw(st.booleans()) else {}
        answer = send(client, upload, at, piece, **with_checksum)
        assert answer.status_code == 204 and answer.headers["upload-offset"] == str(at + size)
        at += size
        assert offset(client, upload) == at
    assert client.get(f"/v1/uploads/{upload}").json()["complete"] is True
    assert (services.blobs.uploads_folder / upload).read_bytes() == content
    assert client.delete(f"/v1/uploads/{upload}").status_code == 204
    assert not (services.blobs.uploads_folder / upload).exists()
    refused(client.get(f"/v1/uploads/{upload}"), 404, "not_found")


def test_only_the_next_byte_is_taken(client: TestClient) -> None:
    content = weights(100)
    upload = begin(client, content)
    assert send(client, upload, 0, content[:50]).status_code == 204
    for wrong in (0, 49, 51, 100):
        answer = refused(send(client, upload, wrong, content[50:60]), 409, "offset_mismatch")
        assert answer.headers["upload-offset"] == "50"
    assert offset(client, upload) == 50


def test_more_than_was_announced_is_refused_and_nothing_of_it_kept(client: TestClient) -> None:
    content = weights(100)
    upload = begin(client, content)
    send(client, upload, 0, content[:50])
    refused(send(client, upload, 50, b"x" * 51), 413, "body_too_large")
    refused(send(client, upload, 50, (b"x" * 30 for _ in range(2))), 413, "body_too_large")
    assert offset(client, upload) == 50
    assert send(client, upload, 50, content[50:]).status_code == 204
    refused(send(client, upload, 100, b"x"), 413, "body_too_large")


@pytest.mark.parametrize("given", ["sha256 AAAA", "md5 AAAA", "sha256", "sha256 %%%"])
def test_a_checksum_that_is_none_is_refused(client: TestClient, given: str) -> None:
    upload = begin(client, weights(100))
    refused(send(client, upload, 0, b"x", Upload_Checksum=given), 422, "invalid_request")


def test_bytes_that_are_not_those_of_the_checksum_do_not_count(client: TestClient) -> None:
    content = weights(2000)
    upload = begin(client, content)
    refused(send(client, upload, 0, content, Upload_Checksum=checksum(b"other")), 422, "checksum_mismatch")
    assert offset(client, upload) == 0
    assert send(client, upload, 0, content, Upload_Checksum=checksum(content)).status_code == 204


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize(("proven", "kept"), [(True, 0), (False, 3000)])
def test_what_came_before_a_line_broke_counts_unless_a_checksum_was_to_prove_it(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch, proven: bool, kept: int, silent: bool
) -> None:
    monkeypatch.setattr(bodies, "SILENCE_S", 0.1)
    content = weights(5000)
    upload = begin(client, content)
    messages = [{"type": "http.request", "body": content[:3000], "more_body": True}]

    async def receive() -> Any:
        if not messages and silent:
            await anyio.sleep(60)
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send_piece(spooled: pieces.Spooled) -> None:
        request = Request({"type": "http", "method": "PATCH", "headers": []}, receive)
        given = checksum(content) if proven else None
        await pieces.add_piece(request, services, spooled, offset=0, checksum=given)

    with pieces.taken(services, None, upload) as spooled, pytest.raises(ClientDisconnect):
        anyio.run(send_piece, spooled)
    assert offset(client, upload) == kept


def test_what_a_killed_process_wrote_and_did_not_count_is_written_again(client: TestClient, services: Services) -> None:
    content = weights(100)
    upload = begin(client, content)
    send(client, upload, 0, content[:40])
    with (services.blobs.uploads_folder / upload).open("ab") as file:
        file.write(b"not counted")
    assert offset(client, upload) == 40
    assert send(client, upload, 40, content[40:]).status_code == 204
    assert (services.blobs.uploads_folder / upload).read_bytes() == content


def test_a_spool_that_was_lost_begins_again(client: TestClient, services: Services) -> None:
    content = weights(100)
    upload = begin(client, content)
    send(client, upload, 0, content[:40])
    (services.blobs.uploads_folder / upload).unlink()
    assert offset(client, upload) == 0
    assert send(client, upload, 0, content).status_code == 204


def test_an_upload_outlives_the_service(client: TestClient, settings: Settings) -> None:
    content = weights(100)
    upload = begin(client, content)
    send(client, upload, 0, content[:40])
    client.__exit__(None, None, None)
    with TestClient(create_app(settings), base_url="http://127.0.0.1:8117") as later:
        assert offset(later, upload) == 40
        assert send(later, upload, 40, content[40:]).status_code == 204


def test_two_requests_do_not_write_one_upload(client: TestClient, services: Services) -> None:
    content = weights(100)
    upload = begin(client, content)
    send(client, upload, 0, content[:40])
    with (services.blobs.uploads_folder / upload).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused(send(client, upload, 40, content[40:]), 409, "upload_busy")
        refused(client.delete(f"/v1/uploads/{upload}"), 409, "upload_busy")
    assert send(client, upload, 40, content[40:]).status_code == 204


@pytest.mark.parametrize(("purpose", "content"), [("model", pickle.dumps([1.5] * 200)), ("dataset", weights(600))])
def test_a_file_of_another_kind_is_refused_by_its_first_bytes(
    client: TestClient, services: Services, purpose: str, content: bytes
) -> None:
    upload = begin(client, content, purpose=purpose)
    assert send(client, upload, 0, content[:10]).status_code == 204
    assert send(client, upload, 10, content[10:]).status_code == 415
    refused(client.get(f"/v1/uploads/{upload}"), 404, "not_found")
    assert spool(services) == []


@pytest.mark.parametrize(
    "body",
    [{"purpose": "lut"}, {"size_bytes": 0}, {"size_bytes": -1}, {"sha256": "x"}, {"extra": 1}, {"size_bytes": None}],
)
def test_what_cannot_be_begun(client: TestClient, body: dict[str, Any]) -> None:
    refused(client.post("/v1/uploads", json={"purpose": "model", "size_bytes": 9} | body), 422, "invalid_request")


def test_an_upload_over_the_limit_or_the_disk_is_refused_before_it_begins(
    client: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"purpose": "model", "size_bytes": settings.max_model_bytes + 1}
    refused(client.post("/v1/uploads", json=body), 413, "body_too_large")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    refused(client.post("/v1/uploads", json={"purpose": "model", "size_bytes": 2}), 507, "storage_full")


def test_only_bytes_are_taken_at_an_offset(client: TestClient) -> None:
    upload = begin(client, weights(10))
    headers = {"Upload-Offset": "0", "Content-Type": "application/json"}
    refused(client.patch(f"/v1/uploads/{upload}", content=b"x", headers=headers), 415, "unsupported_media_type")
    refused(
        client.patch(f"/v1/uploads/{upload}", content=b"x", headers={"Content-Type": PIECE}), 422, "invalid_request"
    )
    refused(send(client, upload, -1, b"x"), 422, "invalid_request")
    refused(send(client, "upl_none", 0, b"x"), 404, "not_found")
    refused(client.delete("/v1/uploads/upl_none"), 404, "not_found")


def test_a_disk_that_fills_up_keeps_what_was_counted(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = weights(3_000_000)
    upload = begin(client, content)
    send(client, upload, 0, content[:1000])
    write = pieces.write_all

    def full(descriptor: int, chunk: bytes) -> None:
        write(descriptor, chunk[:1000])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pieces, "write_all", full)
    refused(send(client, upload, 1000, content[1000:]), 507, "storage_full")
    assert (services.blobs.uploads_folder / upload).stat().st_size == 1000 == offset(client, upload)


def test_uploads_are_advanced_and_expire(client: TestClient, services: Services) -> None:
    upload = begin(client, weights(10))
    with services.database.write() as session:
        assert Uploads(session).expired(-60) == [upload] and Uploads(session).expired(60) == []
        assert not Uploads(session).advance("upl_none", 5)
