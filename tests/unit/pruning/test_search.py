"""The search for a measured plan, on a device whose truth is a known function of the plan."""

from dataclasses import replace

import numpy as np
import pytest

from pruning.check import PlanError
from pruning.problem import Budget, Layer, Plan, Problem, WidthChoice
from pruning.search import SLACK, Measurement, search
from pruning.solve import solve

WIDTHS = tuple(range(1, 33))


def problem(budget_ns: int, correction: float = 1.0, per_unit_ns: int = 1000) -> Problem:
    """Return one group whose width costs `per_unit_ns * correction` a unit and brings value 1 a unit."""
    widths = np.array(WIDTHS)
    latency = np.ceil(widths * per_unit_ns * correction).astype(np.int64)
    return Problem(
        groups=(WidthChoice(id="g", widths=WIDTHS),),
        layers=(Layer(name="l", value=np.zeros((1, 1, 32)), latency_ns=latency[None, None], output="g"),),
        group_value={"g": widths.astype(float)},
        budget_ns=budget_ns,
    )


def taken(p50_ms: float) -> Measurement:
    return Measurement(p50_ms=p50_ms, p90_ms=1.1 * p50_ms)


def run(budget_ms: float, truth: float, fixed_ms: float = 0.0):  # type: ignore[no-untyped-def]
    """Search on a device that is `truth` times slower than its table says, plus a constant."""

    def measure(plan: Plan) -> list[Measurement]:
        return [taken(plan.widths["g"] * 1e-3 * truth + fixed_ms)]

    return search(
        lambda corrections: problem(int(budget_ms * 1e6), corrections[0]),
        solve,
        measure,
        budget_ms=budget_ms,
    )


@pytest.mark.parametrize("truth", [0.7, 0.95, 1.0, 1.15, 1.4])
def test_the_chosen_plan_was_measured_within_the_budget_and_close_to_it(truth: float) -> None:
    result = run(0.016, truth)
    assert result.chosen is not None
    assert result.chosen.measured_ms <= 0.016
    best = max(w for w in WIDTHS if w * 1e-3 * truth <= 0.016)
    assert result.chosen.plan.widths["g"] >= best * (1 - 2 * SLACK)


def test_a_constant_the_table_does_not_know_is_corrected_too() -> None:
    result = run(0.016, 1.0, fixed_ms=0.004)
    assert result.chosen is not None
    assert result.chosen.plan.widths["g"] == 12


def test_a_budget_nothing_reaches_ends_with_the_measured_minimum() -> None:
    result = run(0.002, 3.0)
    assert result.chosen is None
    assert result.min_achievable_ms == pytest.approx(0.003)
    assert result.attempts[-1].plan.widths["g"] == 1


def test_a_table_that_is_too_pessimistic_does_not_make_a_budget_infeasible() -> None:
    result = run(0.0009, 0.5)
    assert result.chosen is not None
    assert result.chosen.measured_ms <= 0.0009


def test_a_budget_that_only_the_table_forbids_is_used_as_any_other() -> None:
    result = run(0.0009, 0.1)  # by the table one unit takes 0.001 ms
    assert result.attempts[0].plan.widths["g"] == 1
    assert result.chosen is not None
    assert result.chosen.measured_ms <= 0.0009 and result.chosen.plan.widths["g"] >= 7


def test_a_search_that_decides_as_one_before_it_measures_nothing() -> None:
    first = run(0.016, 1.3)

    def measure(plan: Plan) -> list[Measurement]:
        raise AssertionError(f"measured {plan.widths}")

    again = search(
        lambda corrections: problem(16_000, corrections[0]),
        solve,
        measure,
        budget_ms=0.016,
        start=first.corrections,
        known=first.attempts,
    )
    assert first.chosen and again.chosen
    assert again.chosen.plan.choice == first.chosen.plan.choice
    assert again.chosen.measured_ms == first.chosen.measured_ms


def test_no_network_is_measured_twice() -> None:
    seen: list[int] = []

    def measure(plan: Plan) -> list[Measurement]:
        seen.append(plan.widths["g"])
        return [taken(plan.widths["g"] * 1.3e-3)]

    search(lambda c: problem(16_000, c[0]), solve, measure, budget_ms=0.016)
    assert len(seen) == len(set(seen))


def test_a_plan_over_its_budget_is_refused() -> None:
    def cheat(asked: Problem) -> Plan:
        honest = solve(asked)
        return replace(honest, widths={"g": 32}, value=32.0, bound=32.0, latency_ns=32_000)

    with pytest.raises(PlanError):
        search(lambda c: problem(16_000, c[0]), cheat, lambda plan: [taken(1.0)], budget_ms=0.016)


def two_devices(corrections: tuple[float, ...], budget_ms: float, other_ms: float) -> Problem:
    """Return the problem with a second device, on which a unit costs twice as much."""
    own = problem(int(budget_ms * 1e6), corrections[0])
    other = np.ceil(np.array(WIDTHS) * 2000 * corrections[1]).astype(np.int64)[None, None]
    layer = replace(own.layers[0], other_costs={"other": other})
    return replace(own, layers=(layer,), other_budgets=(Budget(id="other", limit=int(other_ms * 1e6)),))


@pytest.mark.parametrize(("other_ms", "wide"), [(0.100, 16), (0.030, 10)])
def test_one_network_keeps_the_budgets_of_two_devices(other_ms: float, wide: int) -> None:
    def measure(plan: Plan) -> list[Measurement]:
        width = plan.widths["g"]
        return [taken(width * 1e-3), taken(width * 3e-3)]  # the second table is wrong by half

    result = search(lambda c: two_devices(c, 0.016, other_ms), solve, measure, budget_ms=0.016, others_ms=[other_ms])
    assert result.chosen is not None
    assert result.chosen.others_ms[0] <= other_ms
    assert wide - 1 <= result.chosen.plan.widths["g"] <= wide


def test_a_device_nobody_measures_is_taken_at_its_tables_word() -> None:
    nan = float("nan")
    result = search(
        lambda c: two_devices(c, 0.016, 0.010),
        solve,
        lambda plan: [taken(plan.widths["g"] * 1e-3), taken(nan)],
        budget_ms=0.016,
        others_ms=[0.010],
    )
    assert result.chosen is not None
    assert result.chosen.plan.widths["g"] == 5


def test_budgets_that_exclude_each_other_choose_nothing() -> None:
    result = search(
        lambda c: two_devices(c, 0.016, 0.001),
        solve,
        lambda plan: [taken(plan.widths["g"] * 1e-3), taken(plan.widths["g"] * 2e-3)],
        budget_ms=0.016,
        others_ms=[0.001],
    )
    assert result.chosen is None and not result.attempts
