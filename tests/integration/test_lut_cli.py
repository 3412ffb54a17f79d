"""`secateur devices | luts | lut ...` and the client, against a service with a worker, on a real socket."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from secateur import Client
from secateur.cli import app
from secateur.errors import ApiError, UsageError
from tests.integration.api_service import ROOT, Service, weights

CSV = "batch,cin,cout,fmap_in,kernel,stride,groups,latency_us\n4,32,32,14,3,1,1,5\n4,32,64,14,3,1,1,9\n"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service with a worker."""
    service = Service(tmp_path_factory.mktemp("cli") / "home", port=0)
    command = [sys.executable, "-m", "app"]
    with service.worker(), subprocess.Popen(command, env=service.environment, cwd=ROOT, stdout=subprocess.PIPE) as api:
        assert api.stdout is not None
        yield api.stdout.readline().decode().split()[-1]
        api.terminate()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A published table."""
    path = tmp_path / "titan.csv"
    path.write_text(CSV)
    return path


def run(url: str, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, [*arguments], env={"SECATEUR_URL": url, "COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.stderr
    return result.stdout if code == 0 else result.stderr


def ask(url: str, *arguments: str) -> Any:
    return json.loads(run(url, *arguments, "--json"))


def test_a_table_is_imported_shown_published_exported_compared_and_deleted(url: str, file: Path) -> None:
    lut = ask(url, "lut", "import", str(file), "--device", "titanv", "--hardware", "TITAN V")
    assert lut["profile"]["hardware"] == "TITAN V" and lut["coarse"]
    assert "titanv" in [one["id"] for one in ask(url, "devices")] and "titanv" in run(url, "devices")
    profile = ["--threads", "2", "--dtype", "fp16", "--layout", "nhwc", "--huge-pages"]
    told = run(url, "lut", "import", str(file), "--device", "titanv", *profile)
    assert "coarse" in told and "threads 2, batch 4, fp16, nhwc, huge pages" in told
    shown = ask(url, "lut", "show", lut["id"])
    assert shown["lut"] == lut and [one["name"] for one in shown["versions"]] == ["titan.csv"]
    assert "import titan.csv" in run(url, "lut", "show", lut["id"])
    assert "version 1 published" in run(url, "lut", "publish", lut["id"])
    assert [one["id"] for one in ask(url, "luts", "--device", "titanv", "--published")] == [lut["id"]]
    assert "published 1" in run(url, "luts", "--threads", "1")
    assert "is published" in run(url, "lut", "delete", lut["id"], "--yes", code=1)
    out = file.parent / "t.json"
    assert ask(url, "lut", "export", lut["id"], "--out", str(out)) == {
        "path": str(out),
        "size_bytes": out.stat().st_size,
    }
    run(url, "lut", "export", lut["id"], "--format", "csv", "-o", str(file.parent / "t.csv"))
    assert (file.parent / "t.csv").read_text().splitlines()[0] == CSV.splitlines()[0]
    other = next(one for one in ask(url, "luts", "--device", "titanv") if one["id"] != lut["id"])
    assert ask(url, "lut", "compare", lut["id"], other["id"])["ratio_median"] == 1
    assert "2 entries are in both" in run(url, "lut", "compare", lut["id"], other["id"])
    assert ask(url, "lut", "unpublish", lut["id"])["published_version"] is None
    assert ask(url, "lut", "delete", lut["id"]) == {"deleted": lut["id"]}
    run(url, "lut", "delete", other["id"], "--yes")
    assert ask(url, "luts", "--device", "titanv") == []


def test_a_build_is_followed_to_its_table(url: str, tmp_path: Path) -> None:
    (tmp_path / "net.safetensors").write_bytes(weights())
    arguments = ["lut", "build", str(tmp_path / "net.safetensors"), "--arch", "cifar/resnet20", "--threads", "2"]
    assert "2 entries" in run(url, *arguments)
    lines = [json.loads(line) for line in run(url, *arguments, "--image-size", "40", "--json").splitlines()]
    assert lines[-1]["kind"] == "result" and lines[-1]["build"]["status"] == "succeeded"
    build_id = ask(url, *arguments, "--image-size", "48", "--detach")["id"]
    assert "6 entries" in run(url, "lut", "watch", build_id)
    assert build_id in run(url, "lut", "builds") and build_id == ask(url, "lut", "builds")[0]["id"]
    assert "has ended" in run(url, "lut", "cancel", build_id, code=1)
    assert "only failed and cancelled" in run(url, "lut", "retry", build_id, code=1)


def test_mistakes_are_sentences(url: str, file: Path) -> None:
    assert "no file" in run(url, "lut", "import", "nowhere.csv", "--device", "x", code=2)
    file.write_text(CSV + "4,8,8,14,3,1,1,-1\n")
    assert "line 4" in run(url, "lut", "import", str(file), "--device", "x", code=1)
    assert "neither a file here" in run(url, "lut", "build", "nothing", code=2)


def test_the_client_does_the_same(url: str, file: Path, tmp_path: Path) -> None:
    with Client(url) as client:
        assert client.create_device("phone", hardware="SoC").id == "phone"
        with pytest.raises(UsageError):
            client.create_device("../phone")
        lut = client.import_lut(file, device="phone", threads=4)
        assert client.lut(lut.id) == lut and lut.profile["threads"] == 4
        assert [one.number for one in client.lut_versions(lut.id)] == [1]
        assert client.export_lut(lut.id, tmp_path / "t.json", version=1).stat().st_size > 100
        assert client.publish_lut(lut.id, version=1).published_version == 1
        with pytest.raises(ApiError, match="published"):
            client.delete_lut(lut.id)
        client.unpublish_lut(lut.id)
        with pytest.raises(ApiError, match="belongs to the device"):
            client.delete_device("phone")
        client.delete_lut(lut.id)
        client.delete_device("phone")
        with pytest.raises(UsageError):
            client.build_lut("m", image_size=1)
