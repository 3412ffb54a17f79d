"""Malicious uploads against the whole service: refused with their codes, and nothing of them stays."""

import os
from pathlib import Path

import pytest

from secateur import ApiError, Client, uploads
from tests.malicious import Malicious, listed

ALL = [one for one in listed() if not one.limits]
"""Those for limits of their own are tried on the worker's bodies alone."""
TRIED = ALL if os.environ.get("SECATEUR_TEST_ALL") else ALL[::24]


def stored(folder: Path, client: Client) -> tuple[int, int, list[Path]]:
    files = [path for path in (folder / "home" / "blobs").rglob("*") if path.is_file()]
    return len(list(client.models())), len(list(client.datasets())), sorted(files)


@pytest.mark.parametrize("one", TRIED, ids=[one.name for one in TRIED])
def test_it_is_refused_and_nothing_stays(
    one: Malicious, client: Client, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "upload"
    file.write_bytes(one.build())
    before = stored(folder, client)
    for in_pieces in (False, True):
        monkeypatch.setattr(uploads, "RESUMABLE_BYTES", 0 if in_pieces else 1 << 40)
        with pytest.raises(ApiError) as refused:
            if one.purpose == "model":
                client.upload_model(file, arch=one.arch)
            else:
                client.upload_dataset(file, image_size=32, mean=[0.5] * 3, std=[0.5] * 3)
        assert refused.value.problem.code == one.code
        assert stored(folder, client) == before
    assert not list((folder / "home" / "scratch").glob("*/*"))
