"""One frozen knapsack: three residual stages at 16 % of their latency."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench._instances import Instance, read_instances
from bench.solver import main
from pruning.check import check, evaluate
from pruning.solve import solve
from pruning.solve.halp import halp

GOLDEN = Path(__file__).parents[2] / "golden" / "residual.json"


@pytest.fixture(scope="module")
def instance() -> Instance:
    return read_instances(GOLDEN)[0]


def test_frozen_optimum_is_found_and_proven(instance: Instance) -> None:
    plan = solve(instance.problem, tolerance=0.0)
    check(instance.problem, plan)
    assert plan.status == "optimal"
    assert plan.value == plan.bound == instance.exact["value"]


def test_frozen_answer_obeys_the_tables(instance: Instance) -> None:
    exact = instance.exact
    totals = evaluate(instance.problem, exact["keep"], removed=exact["removed_blocks"])
    assert (totals.value, totals.latency_ns) == (exact["value"], 1000 * exact["latency_us"])


def test_bound_of_every_tolerance_covers_the_optimum(instance: Instance) -> None:
    for tolerance in (0.1, 0.01, 0.001):
        plan = solve(instance.problem, tolerance=tolerance)
        assert plan.value <= instance.exact["value"] <= plan.bound
    assert halp(instance.problem).value < instance.exact["value"]


def corrupted(change: Callable[[dict[str, Any]], object]) -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = json.loads(GOLDEN.read_text())
    change(data[0])
    return data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a JSON file"),
        ("\x1f\x8b not gzip", "not a JSON file"),
        ('{"instance": "x"}', "not a list of solver instances"),
        ("[1]", "not a list of solver instances"),
        ('[{"instance": "x"}]', "instance x: lacks or does not know 'layers'"),
        (corrupted(lambda one: one.pop("groups")), "lacks or does not know 'groups'"),
        (corrupted(lambda one: one.pop("capacity_us")), "lacks or does not know 'capacity_us'"),
        (corrupted(lambda one: one.update(capacity_us="much")), "capacity_us: wants finite numbers"),
        (corrupted(lambda one: one.update(capacity_us=float("inf"))), "capacity_us: wants finite numbers"),
        (corrupted(lambda one: one["groups"].append(one["groups"][0])), "two of one group id"),
        (corrupted(lambda one: one["groups"][0].update(n_groups=-1)), "n_groups must be a whole number"),
        (corrupted(lambda one: one["groups"][1].update(n_groups=99)), "wants finite numbers of shape"),
        (corrupted(lambda one: one["layers"].append(one["layers"][1])), "two of one layer id"),
        (corrupted(lambda one: one["layers"][1].update(group="nowhere")), "lacks or does not know 'nowhere'"),
        (corrupted(lambda one: one["layers"][1].update(latency_us=[[1, 2], [3]])), "rows of different lengths"),
        (corrupted(lambda one: one["layers"][1].update(latency_us=None)), "instance .*: "),
        (corrupted(lambda one: one["layers"][0]["latency_us"].__setitem__(0, 1e300)), "larger than any latency"),
        (corrupted(lambda one: one["layers"][1]["value_cum"].pop()), "value_cum of layer .*: wants finite numbers"),
        (corrupted(lambda one: one["layers"][1]["value_cum"].__setitem__(0, float("nan"))), "wants finite numbers"),
        (corrupted(lambda one: one["layers"].insert(0, None)), "instance .*: "),
    ],
)
def test_files_in_another_form_are_refused(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        read_instances(path)


def test_fractions_and_negative_latencies_are_read(tmp_path: Path) -> None:
    path = tmp_path / "odd.json"
    group = {"id": "g", "n_groups": 2, "value_cum": [0, 1, 5]}
    layer = {"name": "l", "group": "g", "latency_us": [0, 2.0004, -1.5]}
    path.write_text(json.dumps([{"instance": "odd", "groups": [group], "layers": [layer], "capacity_us": 1.9999}]))
    (odd,) = read_instances(path)
    assert odd.problem.layers[0].latency_ns.ravel().tolist() == [2001, -1500]
    assert odd.problem.budget_ns == 1999
    assert solve(odd.problem).widths == {"g": 2}


def test_the_bench_goes_on_after_a_bad_file_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text("[1]")
    assert main(["--json", "--solvers", "secateur", "uniform", "--instances", str(bad), str(GOLDEN)]) == 1
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert {row["solver"]: row["status"] for row in rows}["secateur"] == "optimal"
    assert "not a list of solver instances" in captured.err
    assert main(["--json", "--solvers", "secateur", "--instances", str(GOLDEN)]) == 0


def test_the_bench_reports_what_cannot_be_met(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "late.json"
    path.write_text(json.dumps(corrupted(lambda one: one.update(capacity_us=0, exact_opt_1us=None, official_mdp={}))))
    assert main(["--json", "--instances", str(path)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["status"] for row in rows} <= {"infeasible", "unknown"}
    assert all(row["value"] is None and row["reason"] == row["status"] for row in rows)
