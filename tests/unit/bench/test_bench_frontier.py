"""Methods side by side: what a table of means says."""

import pytest

from bench.frontier import main, summary


def row(method: str, accuracy: float | None) -> dict[str, object]:
    return {"method": method, "budget": 0.5, "accuracy": accuracy, "accuracy_repaired": accuracy,
            "measured_ms": 1.0, "dense_ms": 2.0}  # fmt: skip


def test_means_are_over_seeds_with_their_standard_error() -> None:
    lines = summary([row("auto", 0.9), row("auto", 0.8), row("patterns", None)])
    assert lines[2] == "| auto | 0.5 | 2 | 0.500 | 0.8500 +- 0.0500 | 0.8500 +- 0.0500 |"
    assert lines[3] == "| patterns | 0.5 | 0 | infeasible | - | - |"


def test_a_method_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--data", "x.zip", "--weights", "x.onnx", "--classes", "a,b", "--methods", "magic"])
    assert "invalid choice" in capsys.readouterr().err
