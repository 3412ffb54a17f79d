"""The benches of runtimes and GPUs say what is not there, in a sentence or in JSON."""

import json

import pytest

from bench.gpu import main as gpu
from bench.runtimes import main as runtimes
from lut.measure.runtime import FILES, RuntimeAbsent, runtime


def has_gpu() -> bool:
    try:
        runtime("torch_cuda").profile(1, 1)
    except RuntimeAbsent:
        return False
    return True


@pytest.mark.skipif(has_gpu(), reason="there is a GPU here")
def test_without_a_gpu_there_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu([]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert gpu(["--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reason"]


def test_every_runtime_is_listed_with_its_version_or_what_it_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert runtimes(["--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == list(FILES)
    assert all((row["version"] is None) == bool(row["reason"]) for row in rows)
