"""Folders as zips, and downloads that are right or not there."""

import hashlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from secateur.errors import ChecksumMismatch, UsageError
from secateur.files import as_zip, save_checked, zip_folder


def tree(folder: Path, *names: str) -> Path:
    """Files with their own names as content."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_same_folder_makes_the_same_bytes(tmp_path: Path) -> None:
    first = tree(tmp_path / "a", "train/cat/2.png", "train/cat/1.png", "val/cat/3.png")
    second = tree(tmp_path / "b", "val/cat/3.png", "train/cat/1.png", "train/cat/2.png")
    os.utime(second / "val/cat/3.png", (0, 0))
    zip_folder(first, tmp_path / "1.zip")
    zip_folder(second, tmp_path / "2.zip")
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "1.zip") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["train/cat/1.png", "train/cat/2.png", "val/cat/3.png"]


def test_folder_of_classes_becomes_the_train_split(tmp_path: Path) -> None:
    folder = tree(tmp_path / "pets", "cat/1.png", "dog/2.png")
    with as_zip(folder) as path, zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["train/cat/1.png", "train/dog/2.png"]
    assert not path.exists()


def test_hidden_files_and_links_stay_home(tmp_path: Path) -> None:
    folder = tree(tmp_path / "pets", "cat/1.png", "cat/.DS_Store", ".cache/x")
    (tmp_path / "secret").write_text("secret")
    (folder / "cat" / "link.png").symlink_to(tmp_path / "secret")
    (folder / "loop").symlink_to(folder)
    zip_folder(folder, tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.namelist() == ["train/cat/1.png"]


def test_empty_folder_is_the_callers_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no files"), as_zip(tmp_path):
        pass


def test_zip_is_sent_as_it_is(tmp_path: Path) -> None:
    archive = tmp_path / "pets.zip"
    archive.write_bytes(b"PK")
    with as_zip(archive) as path:
        assert path == archive
    assert archive.exists()


def test_only_the_right_bytes_get_the_name(tmp_path: Path) -> None:
    target = tmp_path / "file"
    save_checked([b"a", b"b"], target, sha256=hashlib.sha256(b"ab").hexdigest())
    with pytest.raises(ChecksumMismatch):
        save_checked([b"c"], target, sha256="0" * 64)

    def broken() -> Iterator[bytes]:
        yield b"x"
        raise OSError("line cut")

    with pytest.raises(OSError, match="line cut"):
        save_checked(broken(), target, sha256="0" * 64)
    assert target.read_bytes() == b"ab" and [path.name for path in tmp_path.iterdir()] == ["file"]
