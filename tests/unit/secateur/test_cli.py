"""The command line against a real server on loopback."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pruning.report import build_report
from pruning.report_schema import Warning
from secateur.cli import app
from secateur.cli.figures import compare, warnings
from secateur.schemas import ErrorDetail, Failure, Problem, PruneJobCreate
from tests.unit.secateur.fake_service import FakeService

ROOT = Path(__file__).parents[3]


class Outcome:
    """What a command left: exit code, stdout, stderr."""

    def __init__(self, *arguments: str, url: str = "http://127.0.0.1:9") -> None:
        result = CliRunner().invoke(app, [*arguments], env={"SECATEUR_URL": url, "COLUMNS": "200"})
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.code, self.out, self.err = result.exit_code, result.stdout, result.stderr

    def json(self) -> Any:
        """Stdout as one JSON document."""
        return json.loads(self.out)

    def lines(self) -> list[Any]:
        """Stdout as JSON lines."""
        # Not splitlines(), which would cut a line at U+2028.
        return [json.loads(line) for line in self.out.rstrip("\n").split("\n")]


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    """A network and images to prune it with, as arguments."""
    (tmp_path / "net.safetensors").write_bytes(b"weights")
    (tmp_path / "pets" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "pets" / "train" / "cat" / "1.png").write_bytes(b"png")
    return [str(tmp_path / "net.safetensors"), "--data", str(tmp_path / "pets"), "--arch", "cifar/resnet20"]


REST = ["--normalize", "cifar10", "--classes", "cat,3,1", "--budget", "2ms"]


def test_prune_uploads_follows_saves_and_shows(service: FakeService, inputs: list[str], tmp_path: Path) -> None:
    end = Outcome("prune", *inputs, *REST, "--mode", "reconstruct", "--out", str(tmp_path / "out"), url=service.url)
    assert end.code == 0, end.err
    job = service.jobs["job1"]
    assert job.spec.classes == ["cat", "3", 1], "a folder called 3 comes before index 3"
    assert (job.spec.model_id, job.spec.dataset_id, job.spec.finetune.mode) == ("m1", "d1", "reconstruct")
    assert service.datasets[0].image_size == 32 and service.datasets[0].mean == [0.4914, 0.4822, 0.4465]
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(service.files)
    for text in ("latency p50", "4.000 ms", "1.900 ms", "0.47 x", "cat", "-2.00 points", "126.00 M", "1.2 MB"):
        assert text in end.out
    assert "uniform" in end.out and "40.00 %" in end.out and "Note: The split has 20 images." in end.out
    assert end.out.rstrip().endswith("Budget met: 1.900 ms of 2.000 ms.")
    for text in (
        "phase profiling",
        "measured 1.900 ms",
        "val accuracy 93.12 %",
        "warning: the device is noisy",
        "1 image",
    ):
        assert text in end.err


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ({}, 0),
        ({"outcome": "budget_missed"}, 3),
        ({"outcome": "infeasible", "summary": {"budget_ms": 2.0, "min_achievable_ms": 2.5}}, 4),
        (
            {
                "status": "failed",
                "outcome": None,
                "failure": Failure(code="nan_loss", detail="the loss is not a number"),
            },
            1,
        ),
        ({"status": "cancelled", "outcome": None}, 5),
    ],
)
@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_exit_code_tells_how_the_job_ended(
    service: FakeService, inputs: list[str], end: dict[str, Any], code: int, json_flag: list[str]
) -> None:
    service.end = end
    assert Outcome("prune", *inputs, *REST, *json_flag, url=service.url).code == code
    assert Outcome("watch", "job1", *json_flag, url=service.url).code == code


def test_json_prune_prints_lines_of_json_and_nothing_else(
    service: FakeService, inputs: list[str], tmp_path: Path
) -> None:
    end = Outcome("prune", *inputs, *REST, "--json", "--out", str(tmp_path / "out"), url=service.url)
    lines = end.lines()
    assert [line["kind"] for line in lines[:2]] == ["submitted", "status"] and lines[-1]["kind"] == "result"
    assert lines[-1]["job"]["outcome"] == "budget_met" and len(lines[-1]["files"]) == 2
    assert [line["id"] for line in lines[1:-1]] == list(range(100, 110))


@pytest.mark.parametrize(
    "command", ["jobs", "show job1", "devices", "luts", "cancel job1", "download job1 --out {out}", "watch job1"]
)
def test_json_is_all_there_is_on_stdout(
    service: FakeService, spec: PruneJobCreate, command: str, tmp_path: Path
) -> None:
    service.add_job(spec)
    end = Outcome(*command.format(out=tmp_path / "out").split(), "--json", url=service.url)
    assert end.code == 0
    assert end.lines() if command.startswith("watch") else end.json()


def test_detached_prune_prints_the_id_alone(service: FakeService, inputs: list[str]) -> None:
    end = Outcome("prune", *inputs, *REST, "--detach", url=service.url)
    assert (end.code, end.out) == (0, "job1\n") and "secateur watch job1" in end.err and not service.streams
    assert Outcome("prune", *inputs, *REST, "--detach", "--json", url=service.url).json()["id"] == "job2"


def test_uploaded_inputs_are_used_by_id(service: FakeService, inputs: list[str]) -> None:
    Outcome("prune", *inputs, *REST, url=service.url)
    end = Outcome("prune", "m1", "--data", "d1", "--classes", "dog", "--budget", "0.5x", url=service.url)
    assert end.code == 0 and len(service.uploads) == 2
    assert service.jobs["job2"].spec.budget_ratio == 0.5
    end = Outcome("prune", "m9", "--data", "d1", "--classes", "dog", "--budget", "0.5x", url=service.url)
    assert end.code == 2 and "neither a file here nor a model on the server" in end.err


def test_the_schedule_and_every_saliency_are_options(service: FakeService, inputs: list[str]) -> None:
    steps = ["--schedule", "gradual", "--schedule-steps", "30", "--schedule-batches", "0"]
    method = ["--saliency", "other_classes", "--solver", "halp"]
    assert Outcome("prune", *inputs, *REST, *steps, *method, "--detach", url=service.url).code == 0
    spec = service.jobs["job1"].spec
    assert spec.schedule.model_dump() == {"mode": "gradual", "steps": 30, "batches": 0}
    assert (spec.saliency, spec.solver) == ("other_classes", "halp")
    assert Outcome("prune", *inputs, *REST, "--detach", url=service.url).code == 0
    assert service.jobs["job2"].spec.schedule.mode == "one_shot"


def test_check_shows_the_preflight_and_starts_nothing(service: FakeService, inputs: list[str]) -> None:
    end = Outcome("prune", *inputs, *REST, "--check", url=service.url)
    assert end.code == 0 and not service.jobs
    assert "30 coupling groups hold 90 % of the latency." in end.out and "grouped" in end.out
    assert Outcome("prune", *inputs, *REST, "--check", "--json", url=service.url).json()["dense_ms"] == 4.0


def test_refusal_is_a_sentence_with_pointers(service: FakeService, inputs: list[str]) -> None:
    service.refuse = Problem(
        type="about:blank", title="Invalid request", status=422, code="wrong_weights",
        detail="the weights do not fit", errors=[ErrorDetail(pointer="/file", detail="missing key conv1.weight")],
    )  # fmt: skip
    end = Outcome("prune", *inputs, *REST, "--json", url=service.url)
    assert (end.code, end.out) == (1, "")
    assert end.err == "secateur: the weights do not fit\n  /file: missing key conv1.weight\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--budget", "soon"], "--budget soon: write a time"),
        (["--normalize", "imagnet"], "--normalize imagnet"),
        (["--threads", "0"], "threads"),
        (["--data", "no/such.zip"], "there is no file no/such.zip"),
        (["--class-map", "no/such.json"], "--class-map"),
        (["--out", "x", "--detach"], "--out"),
        (["--mode", "slow"], "--mode"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_sent(
    service: FakeService, inputs: list[str], change: list[str], message: str
) -> None:
    end = Outcome("prune", *inputs, *REST, *change, url=service.url)
    assert end.code == 2 and message in end.err and end.out == ""
    assert not service.uploads


def test_nobody_there_says_how_to_start_a_server() -> None:
    end = Outcome("jobs", "--json")
    assert (end.code, end.out) == (1, "")
    assert "no answer from http://127.0.0.1:9" in end.err and "secateur serve" in end.err


def test_missing_job_is_one_sentence(service: FakeService) -> None:
    for command in ("show", "watch", "download"):
        end = Outcome(command, "nope", url=service.url)
        assert (end.code, end.err) == (1, "secateur: There is no such job.\n")


def test_tables_show_what_was_said_brackets_included(service: FakeService, spec: PruneJobCreate) -> None:
    service.add_job(spec)
    assert "cpu [x]" in Outcome("devices", url=service.url).out
    assert "1,234" in Outcome("luts", url=service.url).out
    assert "budget_met" in Outcome("jobs", url=service.url).out
    assert "Budget met" in Outcome("show", "job1", url=service.url).out
    assert "brackets [bold]" in Outcome("watch", "job1", url=service.url).err


def test_report_that_says_little_still_makes_a_table(service: FakeService, spec: PruneJobCreate) -> None:
    service.add_job(spec)
    service.files["report.json"] = b'{"dense": null, "slim": {"per_class": 3}}'
    out = Outcome("watch", "job1", url=service.url).out
    assert "4.000 ms" in out and "Met: the slim network is within the budget of 2.000 ms: it measures 1.900 ms." in out
    service.files.clear()
    assert Outcome("watch", "job1", url=service.url).out == out


@pytest.mark.parametrize(
    "report",
    ['{"dense": {"per_class": [1]}, "classes": 3, "baselines": [1, {}], "warnings": {}}', "[]", "null", "<html>"],
)
def test_odd_report_does_no_harm(service: FakeService, spec: PruneJobCreate, report: str) -> None:
    service.add_job(spec, summary={"per_class": {"cat": 0.5}, "per_class_dense": {"cat": 0.75}, "verdict": 3})
    service.files["report.json"] = report.encode()
    end = Outcome("watch", "job1", url=service.url)
    assert end.code == 0 and "-25.00 points" in end.out and "Met: the slim network is within the budget" in end.out


def test_table_understands_the_report_as_it_is_written() -> None:
    dense = {"p50_ms": 4.0, "accuracy": 0.95, "per_class": [0.9, math.nan], "num_macs": 10, "num_parameters": 5}
    common = {"title": "t", "budget_ms": 2.0, "classes": ["cat", "dog"], "dense": dense}
    met = build_report(**common, outcome="budget_met", slim=dense | {"p50_ms": 1.0})
    assert [row[0] for row in compare({}, met)] == ["latency p50", "accuracy", "  cat", "MACs", "parameters"]
    assert compare({}, met)[0] == ("latency p50", "4.000 ms", "1.000 ms", "0.25 x")
    infeasible = build_report(**common, outcome="infeasible", slim=None)
    assert compare({}, infeasible)[0] == ("latency p50", "4.000 ms", "", "")
    assert warnings(met | {"warnings": [Warning(code="c", detail="noisy").model_dump()]}) == ["noisy"]


def test_of_very_many_classes_the_worst_are_shown() -> None:
    dense = {f"c{number}": 0.9 for number in range(100)}
    rows = compare({"per_class_dense": dense, "per_class": dense | {"c70": 0.1}}, {})
    assert len(rows) == 21
    assert rows[0] == ("  c70", "90.00 %", "10.00 %", "-80.00 points") and rows[-1][0] == "  80 more lost less"


def test_infeasible_names_the_least_that_can_be_reached(service: FakeService, spec: PruneJobCreate) -> None:
    service.files.clear()
    service.add_job(spec, outcome="infeasible", summary={"min_achievable_ms": 2.5})
    assert "the least that can be reached is 2.500 ms" in Outcome("watch", "job1", url=service.url).out


def test_damaged_download_fails_in_one_sentence(service: FakeService, spec: PruneJobCreate, tmp_path: Path) -> None:
    service.add_job(spec)
    service.damage = {"model.onnx"}
    end = Outcome("download", "job1", "--out", str(tmp_path / "out"), url=service.url)
    assert end.code == 1 and "model.onnx arrived damaged" in end.err and list((tmp_path / "out").iterdir()) == []


def test_real_process_keeps_stdout_clean_and_leaves_the_job_on_ctrl_c(
    service: FakeService, spec: PruneJobCreate
) -> None:
    service.add_job(spec, status="running", outcome=None)
    service.hold_open_s = 60
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "secateur", "watch", "job1", "--server", service.url, "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        events = [json.loads(process.stdout.readline()) for _ in range(10)]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stdout.read() == "" and "the job goes on" in process.stderr.read()
    assert events[-1]["data"]["status"] == "running"
