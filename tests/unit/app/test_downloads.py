"""Artifacts over HTTP: whole, in ranges, unchanged, or from where they are; the same from a folder and from a bucket."""

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.migrate import migrate
from app.settings import Settings
from app.store.repositories import Artifacts, Jobs, Models
from tests.buckets import bucket_settings, s3_server

CONTENT = random.Random(0).randbytes(3_000_000)
ETAG = f'"{hashlib.sha256(CONTENT).hexdigest()}"'


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


def serving(settings: Settings) -> Iterator[TestClient]:
    migrate(settings)
    with TestClient(create_app(settings), base_url="http://127.0.0.1:8117", follow_redirects=False) as client:
        services = client.app.state.services  # type: ignore[attr-defined]
        blob, page = services.blobs.put_bytes(CONTENT), services.blobs.put_bytes(b"<h1>met</h1>")
        with services.database.write() as session:
            model = Models(session).add(
                name="m", arch="onnx", sha256=blob.sha256, size_bytes=1, num_parameters=1, num_outputs=1,
                input_shape=None, class_names=None,
            )  # fmt: skip
            job = Jobs(session).add(name="", spec={}, model_id=model.id, dataset_id=None, device_id="local")
            job_id = job.id
            for name, kept, kind in (
                ("été.onnx", blob, "application/octet-stream"),
                ("report.html", page, "text/html"),
            ):
                Artifacts(session).save(job_id, name, sha256=kept.sha256, size_bytes=kept.size_bytes, media_type=kind)
        client.base_url = client.base_url.join(f"/v1/prune-jobs/{job_id}/artifacts/")
        yield client


@pytest.fixture(params=["folder", "bucket"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TestClient]:
    if request.param == "folder":
        yield from serving(Settings(home=tmp_path))
    else:
        yield from serving(bucket_settings(request.getfixturevalue("endpoint"), tmp_path))


@pytest.fixture
def signing(endpoint: str, tmp_path: Path) -> Iterator[TestClient]:
    yield from serving(bucket_settings(endpoint, tmp_path, store_presign=True))


def test_a_file_comes_whole_with_its_name_type_and_tag(client: TestClient) -> None:
    for method in ("GET", "HEAD"):
        answer = client.request(method, "été.onnx")
        assert answer.status_code == 200 and answer.headers["etag"] == ETAG
        assert answer.headers["content-length"] == str(len(CONTENT)) and answer.headers["accept-ranges"] == "bytes"
        assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%A9t%C3%A9.onnx"
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.content == (CONTENT if method == "GET" else b"")


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=1000-2999999", 1000, 3_000_000),
        ("bytes=1000-", 1000, 3_000_000),
        ("bytes=2999999-99999999", 2_999_999, 3_000_000),
        ("bytes=-5", 2_999_995, 3_000_000),
        ("bytes=-99999999", 0, 3_000_000),
    ],
)
def test_a_range_comes_as_asked(client: TestClient, asked: str, start: int, end: int) -> None:
    answer = client.get("été.onnx", headers={"Range": asked, "If-Range": ETAG})
    assert answer.status_code == 206 and answer.content == CONTENT[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/3000000"
    assert answer.headers["content-length"] == str(end - start)


@pytest.mark.parametrize(
    "headers",
    [
        {"Range": "bytes=0-1,3-4"},
        {"Range": "bytes=5-1"},
        {"Range": "bytes=x-"},
        {"Range": "lines=1-2"},
        {"Range": "bytes=0-1", "If-Range": '"another"'},
        {"Range": "bytes=0-1", "If-Range": "W/" + ETAG},
        {"Range": "bytes=0-1", "If-Range": "Sat, 21 Nov 2026 09:00:00 GMT"},
    ],
)
def test_a_range_that_cannot_be_kept_gets_the_whole_file(client: TestClient, headers: dict[str, str]) -> None:
    answer = client.get("été.onnx", headers=headers)
    assert answer.status_code == 200 and answer.content == CONTENT


@pytest.mark.parametrize("asked", ["bytes=3000000-", "bytes=-0", "bytes=999999999999-9999999999999"])
def test_a_range_outside_the_file_is_refused(client: TestClient, asked: str) -> None:
    answer = client.get("été.onnx", headers={"Range": asked})
    assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == "bytes */3000000"


@pytest.mark.parametrize("tags", [ETAG, f"W/{ETAG}", f'"a", {ETAG}', "*"])
def test_what_the_client_has_does_not_come_again(client: TestClient, tags: str) -> None:
    answer = client.get("été.onnx", headers={"If-None-Match": tags})
    assert answer.status_code == 304 and answer.content == b"" and answer.headers["etag"] == ETAG
    assert client.get("été.onnx", headers={"If-None-Match": '"other"'}).status_code == 200


def test_a_bucket_that_signs_sends_the_client_there(signing: TestClient) -> None:
    answer = signing.get("été.onnx")
    assert answer.status_code == 307 and answer.headers["cache-control"] == "no-store"
    there = httpx.get(answer.headers["location"], headers={"Range": "bytes=10-19"}, trust_env=False)
    assert there.status_code == 206 and there.content == CONTENT[10:20]
    assert there.headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%A9t%C3%A9.onnx"
    assert there.headers["content-type"] == "application/octet-stream"
    assert signing.head("été.onnx").status_code == 200
    assert signing.get("été.onnx", headers={"If-None-Match": ETAG}).status_code == 304


def test_a_page_never_comes_from_elsewhere(signing: TestClient) -> None:
    page = signing.get("report.html")
    assert page.status_code == 200 and "sandbox" in page.headers["content-security-policy"]
