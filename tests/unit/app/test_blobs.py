"""Files by their content: the same of a folder and of a bucket."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import boto3
import httpx
import pytest
from botocore.config import Config
from hypothesis import given
from hypothesis import strategies as st

from app.settings import Settings
from app.store.blobs import BlobDamaged, BlobStore, LocalBlobs, StoreUnavailable
from app.store.blobs_cache import BlobCache
from app.store.blobs_open import open_blobs
from app.store.blobs_presign import Presigner
from tests.buckets import KEYS, bucket_settings, s3_server

ABSENT = hashlib.sha256(b"absent").hexdigest()


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "folder":
        return open_blobs(Settings(home=tmp_path))
    return open_blobs(bucket_settings(request.getfixturevalue("endpoint"), tmp_path))


@given(content=st.binary(max_size=5000), size=st.integers(1, 5000))
def test_what_is_written_in_pieces_is_read_back_whole(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, size: int
) -> None:
    store = LocalBlobs(tmp_path_factory.mktemp("blobs"))
    with store.writer() as writer:
        for start in range(0, len(content), size):
            writer.write(content[start : start + size])
        blob = writer.commit()
    assert blob.sha256 == hashlib.sha256(content).hexdigest() and blob.size_bytes == len(content)
    assert store.read_bytes(blob.sha256) == content


def test_a_file_of_several_parts_is_stored_read_and_listed(store: BlobStore, tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * 21
    (tmp_path / "big").write_bytes(content)
    blob = store.put_file(tmp_path / "big")
    assert blob.size_bytes == store.size_bytes(blob.sha256) == len(content)
    assert b"".join(store.chunks(blob.sha256, 0, len(content))) == content
    assert b"".join(store.chunks(blob.sha256, 5, 1_000_005)) == content[5:1_000_005]
    with store.local(blob.sha256) as path:
        assert path.read_bytes() == content
    listed = list(store.stored())
    assert [(one.sha256, one.size_bytes) for one in listed] == [(blob.sha256, len(content))]
    assert store.delete(blob.sha256) and not store.delete(blob.sha256)
    assert not store.exists(blob.sha256) and list(store.stored()) == []
    assert not list((tmp_path / "spool" / "tmp").glob("*"))


def test_what_is_not_there_is_not_found(store: BlobStore) -> None:
    assert not store.exists(ABSENT) and not store.delete(ABSENT)
    with pytest.raises(FileNotFoundError):
        store.read_bytes(ABSENT)
    with pytest.raises(FileNotFoundError):
        next(iter(store.chunks(ABSENT, 0, 1)))
    with pytest.raises(FileNotFoundError), store.local(ABSENT):
        pass


def test_a_writer_that_is_left_early_leaves_nothing(store: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), store.writer() as writer:
        writer.write(b"half")
        raise ZeroDivisionError
    assert files(tmp_path) == [] and list(store.stored()) == []


def test_the_same_content_is_kept_once(store: BlobStore, tmp_path: Path) -> None:
    first = store.put_bytes(b"x" * 10)
    (tmp_path / "copy").write_bytes(b"x" * 10)
    assert store.put_file(tmp_path / "copy") == first
    assert [one.sha256 for one in store.stored()] == [first.sha256]


def test_a_spooled_file_is_stored_without_a_copy_and_stays(store: BlobStore) -> None:
    path = store.uploads_folder / "one"
    path.write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    store.put_spooled(path, sha256)
    assert path.read_bytes() == b"weights" == store.read_bytes(sha256)
    if isinstance(store, LocalBlobs):
        assert store.path(sha256).stat().st_ino == path.stat().st_ino


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "/x"])
def test_only_a_hash_is_a_name(store: BlobStore, name: str) -> None:
    with pytest.raises(ValueError, match="not a SHA-256"):
        store.exists(name)


def test_what_killed_writers_left_is_swept_away(store: BlobStore, tmp_path: Path) -> None:
    store.temporary_path().write_bytes(b"old")
    assert store.delete_stale_temporaries(60) == 0
    assert store.delete_stale_temporaries(-60) == 1
    assert files(tmp_path) == []


def test_a_worker_never_gets_damaged_bytes(tmp_path: Path) -> None:
    store = LocalBlobs(tmp_path)
    blob = store.put_bytes(b"right")
    with store.local(blob.sha256):
        pass
    store.path(blob.sha256).write_bytes(b"wrong")
    with pytest.raises(BlobDamaged), store.local(blob.sha256):
        pass
    with pytest.raises(BlobDamaged):
        store.read_bytes(blob.sha256)


def test_a_bucket_that_hands_out_other_bytes_is_found_out(endpoint: str, tmp_path: Path) -> None:
    store = open_blobs(bucket_settings(endpoint, tmp_path))
    blob = store.put_bytes(b"right")
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **KEYS)
    key = f"{tmp_path.parent.name}-{tmp_path.name}/{blob.sha256[:2]}/{blob.sha256}"
    client.put_object(Bucket="files", Key=key, Body=b"wrong")
    with pytest.raises(BlobDamaged), store.local(blob.sha256):
        pass
    assert files(tmp_path / "blob-cache") == []


def test_plain_http_is_spoken_only_when_asked_for(endpoint: str, tmp_path: Path) -> None:
    settings = bucket_settings(endpoint, tmp_path).model_copy(update={"store_allow_http": False})
    with pytest.raises(StoreUnavailable):
        open_blobs(settings).put_bytes(b"x")


# The cache


class Source:
    """Counts how often each file is fetched."""

    def __init__(self) -> None:
        self.fetched: list[bytes] = []

    def use(self, cache: BlobCache, content: bytes) -> bytes:
        def fetch(path: Path) -> None:
            self.fetched.append(content)
            path.write_bytes(content)

        with cache.local(hashlib.sha256(content).hexdigest(), len(content), fetch) as path:
            return path.read_bytes()


def test_the_cache_fetches_once_and_drops_what_was_used_longest_ago(tmp_path: Path) -> None:
    cache, source = BlobCache(tmp_path, 250), Source()
    a, b, c = (letter * 100 for letter in (b"a", b"b", b"c"))
    for content in (a, b, a, c, a):
        assert source.use(cache, content) == content
    assert source.fetched == [a, b, c]
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 250
    source.use(cache, b)
    assert source.fetched == [a, b, c, b]


def test_a_file_in_use_is_not_dropped_and_a_damaged_one_is_fetched_again(tmp_path: Path) -> None:
    cache, source = BlobCache(tmp_path, 100), Source()
    source.use(cache, b"a" * 100)
    held = tmp_path / hashlib.sha256(b"a" * 100).hexdigest()
    with held.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # as another process has it
        source.use(cache, b"b" * 100)
        assert held.exists()
    source.use(cache, b"c" * 100)
    assert not held.exists()
    source.use(cache, b"a" * 100)
    held.write_bytes(b"x" * 100)
    assert source.use(cache, b"a" * 100) == b"a" * 100


# Signed addresses


def test_our_signature_is_the_one_amazons_own_library_makes(endpoint: str) -> None:
    config = Config(signature_version="s3v4", s3={"addressing_style": "path"})
    client = boto3.client("s3", endpoint_url=endpoint, region_name="eu-west-3", config=config, **KEYS)
    disposition, media_type = "attachment; filename=\"a b+c~.onnx\"; filename*=UTF-8''%C3%A9", "text/csv; charset=utf-8"
    theirs = client.generate_presigned_url(
        "get_object",
        Params={
            "Bucket": "files", "Key": "p/aa/key",
            "ResponseContentDisposition": disposition, "ResponseContentType": media_type,
        },
        ExpiresIn=300,
    )  # fmt: skip
    query = parse_qs(urlsplit(theirs).query)
    now = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    presigner = Presigner(
        base_url=f"{endpoint}/files/p", region="eu-west-3",
        access_key_id=KEYS["aws_access_key_id"], secret_access_key=KEYS["aws_secret_access_key"],
    )  # fmt: skip
    ours = parse_qs(urlsplit(presigner.url("aa/key", media_type=media_type, disposition=disposition, now=now)).query)
    assert ours == query


def test_a_signed_address_gives_the_file_with_its_name_and_type(endpoint: str, tmp_path: Path) -> None:
    store = open_blobs(bucket_settings(endpoint, tmp_path, store_presign=True))
    blob = store.put_bytes(b"weights")
    url = store.signed_url(blob.sha256, media_type="application/x-net", disposition='attachment; filename="m.onnx"')
    assert url is not None and "secret" not in url and "X-Amz-Expires=300" in url
    answer = httpx.get(url, trust_env=False)
    assert answer.content == b"weights" and answer.headers["content-type"] == "application/x-net"
    assert answer.headers["content-disposition"] == 'attachment; filename="m.onnx"'
    assert open_blobs(Settings(home=tmp_path)).signed_url(blob.sha256, media_type="a/b", disposition="inline") is None


def test_signing_needs_a_key(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    settings = bucket_settings(endpoint, tmp_path, store_presign=True)
    with pytest.raises(ValueError, match="access key"):
        open_blobs(settings.model_copy(update={"store_access_key_id": ""}))
