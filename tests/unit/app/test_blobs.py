"""Files by their content."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.store.blobs import BlobStore


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


@given(content=st.binary(max_size=5000), size=st.integers(1, 5000))
def test_what_is_written_in_pieces_is_read_back_whole(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, size: int
) -> None:
    store = BlobStore(tmp_path_factory.mktemp("blobs"))
    with store.writer() as writer:
        for start in range(0, len(content), size):
            writer.write(content[start : start + size])
        blob = writer.commit()
    assert blob.sha256 == hashlib.sha256(content).hexdigest() and blob.size_bytes == len(content)
    assert store.read_bytes(blob.sha256) == content


def test_a_writer_that_is_left_early_leaves_nothing(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    with pytest.raises(ZeroDivisionError), store.writer() as writer:
        writer.write(b"half")
        raise ZeroDivisionError
    assert files(tmp_path) == []


def test_the_same_content_is_kept_once(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    first = store.put_bytes(b"x" * 10)
    (tmp_path / "copy").write_bytes(b"x" * 10)
    assert store.put_file(tmp_path / "copy") == first
    assert files(tmp_path) == sorted([tmp_path / "copy", store.path(first.sha256)])
    assert store.delete(first.sha256) and not store.delete(first.sha256)
    assert not store.exists(first.sha256)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "/x"])
def test_only_a_hash_is_a_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a SHA-256"):
        BlobStore(tmp_path).path(name)


def test_what_killed_writers_left_is_swept_away(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    store.temporary_path().write_bytes(b"old")
    assert store.delete_stale_temporaries(60) == 0
    assert store.delete_stale_temporaries(-60) == 1
    assert files(tmp_path) == []
