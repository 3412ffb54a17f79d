"""One frozen knapsack: three residual stages at 16 % of their latency."""

from pathlib import Path

import pytest

from bench._instances import Instance, read_instances
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


def test_files_in_another_form_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('[{"instance": "x"}]')
    with pytest.raises(ValueError, match="not a list of solver instances"):
        read_instances(path)
