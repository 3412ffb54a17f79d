"""The coverage bench goes on where one network fails, and says so."""

import json

import pytest

from bench.coverage import NETWORKS, main


def test_a_network_that_fails_has_a_row_and_does_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--networks", "torchvision/nonsense", "cifar/resnet20-a", "--no-latency", "--json"]) == 1
    failed, exact = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert failed["network"] == "torchvision/nonsense" and "nonsense" in failed["failed"]
    assert exact["num_coupling_groups"] == 12 and max(exact["slim_error"], exact["onnx_error"]) <= 1e-5
    assert exact["prunable_latency_share"] is None and exact["reason"]


def test_share_of_latency_is_one_where_every_layer_can_change(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--networks", "cifar/resnet20-b"]) == 0
    assert "| cifar/resnet20-b | 12 | 100.0% |" in capsys.readouterr().out


def test_every_family_is_listed_once() -> None:
    assert len(NETWORKS) == len(set(NETWORKS)) >= 35
