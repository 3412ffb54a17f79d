"""From a plan that should keep the budget to a network that was measured to keep it.

A knapsack picks the entries that are too good to be true, so its plans come out slower than the table says (method section 9).
So: solve, build, measure; correct the table by what the measurement shows; solve again, until the measured latency is within
the budget and close to it. Larger corrections give faster plans, so the tries close in on the best correction from both sides.
Further devices that the same network must be fast on have corrections of their own, which only grow.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pruning.check import check
from pruning.problem import Plan, Problem

MAX_ATTEMPTS = 6
SLACK = 0.03
"""A plan that leaves less of the budget unused than this is not improved any further."""
NARROW = 1.004
"""Ratio of the corrections on both sides below which nothing is left between them."""
STEP = 1.02
"""Least factor by which a correction grows when its device's budget was missed."""

Corrections = tuple[float, ...]
"""Factor on each device's table, the job's own device first."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Latency of one network on one device, in ms."""

    p50_ms: float
    p90_ms: float


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One plan, and what it took when it was built and measured."""

    plan: Plan
    predicted_ms: float
    """By the table, as corrected so far."""
    measured_ms: float
    p90_ms: float
    others_ms: tuple[float, ...] = ()
    """Measured p50 on each further device; NaN where nothing measures, and the table's word counts."""
    corrections: Corrections
    """Factors on the tables' latencies under which the plan was solved."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """All attempts, and the one to keep."""

    attempts: tuple[Attempt, ...]
    chosen: Attempt | None
    """Of the most value among those measured within every budget; None when there is none."""
    min_achievable_ms: float
    """Least latency any offered plan reaches: measured when nothing kept the budget, else by the corrected table."""

    @property
    def corrections(self) -> Corrections:
        """Return the factors under which the search ended: those of the chosen plan, or of the last try."""
        last = self.chosen or (self.attempts[-1] if self.attempts else None)
        return last.corrections if last else ()


def search(
    build: Callable[[Corrections], Problem],
    solve: Callable[[Problem], Plan],
    measure: Callable[[Plan], Sequence[Measurement]],
    *,
    budget_ms: float,
    others_ms: Sequence[float] = (),
    max_attempts: int = MAX_ATTEMPTS,
    start: Corrections = (),
    known: Sequence[Attempt] = (),
    on_attempt: Callable[[Attempt], None] = lambda attempt: None,
) -> Search:
    """Return the plan of most value whose network was measured within `budget_ms`, and `others_ms` on further devices.

    `build(corrections)` gives the problem with every latency multiplied; `measure` gives the network a plan describes its p50 and
    p90 on every device. `start` are corrections that another search ended under; what its attempts (`known`, of the same units) decided
    alike is not measured again. Every plan is checked without the solver; one over its budget raises `pruning.check.PlanError`.
    """
    attempts: list[Attempt] = []
    fastest: Attempt | None = None
    too_slow, fits = 0.0, math.inf
    corrections: Corrections = start or (1.0,) * (1 + len(others_ms))
    for _ in range(max_attempts):
        problem = build(corrections)
        plan, attempt = solve(problem), None
        if plan.found:
            check(problem, plan)
            attempt = _try(plan, corrections, measure, [*attempts, *known])
        else:
            fits = min(fits, corrections[0])  # nothing is fast enough under this correction: look below it
            if not attempts:
                # By the tables' word alone; what the fastest plan takes tells how much slower than the device that is.
                fastest = attempt = _fastest(build, solve, measure, corrections)
                if attempt is None:
                    break
        if attempt:
            attempts.append(attempt)
            on_attempt(attempt)
            met = _met(attempt.others_ms, others_ms)
            within = attempt.measured_ms <= budget_ms
            if within and all(met) and attempt.measured_ms >= budget_ms * (1 - SLACK):
                break
            if attempt is fastest and not (within and all(met)):
                break
            if not all(met):
                others = _raised(corrections[1:], attempt.others_ms, others_ms)
                own = corrections[0] if within else corrections[0] * max(STEP, attempt.measured_ms / budget_ms)
                corrections, too_slow, fits = (own, *others), 0.0, math.inf
                continue
            fits, too_slow = (min(fits, corrections[0]), too_slow) if within else (fits, max(too_slow, corrections[0]))
        wanted = corrections[0] * (attempt.measured_ms / attempt.predicted_ms if attempt else 1.0)
        corrections = (_between(too_slow, fits, wanted), *corrections[1:])
        if fits < too_slow * NARROW:
            break
    chosen = _best(attempts, budget_ms, others_ms)
    floor_ms = min((a.plan.min_achievable_ns for a in attempts), default=plan.min_achievable_ns) / 1e6
    if chosen is None and fastest is None and (fastest := _fastest(build, solve, measure, corrections)):
        on_attempt(fastest)
        attempts.append(fastest)
        chosen = _best(attempts, budget_ms, others_ms)
    if fastest:
        floor_ms = min(a.measured_ms for a in attempts)
    return Search(attempts=tuple(attempts), chosen=chosen, min_achievable_ms=floor_ms)


def _met(measured_ms: Sequence[float], budgets_ms: Sequence[float]) -> list[bool]:
    return [not measured > budget for measured, budget in zip(measured_ms, budgets_ms, strict=True)]


def _raised(
    corrections: Sequence[float], measured_ms: Sequence[float], budgets_ms: Sequence[float]
) -> tuple[float, ...]:
    """Return the corrections, those of missed budgets multiplied by what they were missed by."""
    return tuple(
        correction * max(STEP, measured / budget) if measured > budget else correction
        for correction, measured, budget in zip(corrections, measured_ms, budgets_ms, strict=True)
    )


def _try(
    plan: Plan, corrections: Corrections, measure: Callable[[Plan], Sequence[Measurement]], before: Sequence[Attempt]
) -> Attempt:
    """Measure a plan, unless an attempt before it decided alike."""
    attempt = Attempt(
        plan=plan, predicted_ms=plan.latency_ns / 1e6, measured_ms=math.nan, p90_ms=math.nan, corrections=corrections
    )
    for old in before:
        if old.plan.choice == plan.choice:
            return replace(attempt, measured_ms=old.measured_ms, p90_ms=old.p90_ms, others_ms=old.others_ms)
    own, *others = measure(plan)
    return replace(
        attempt, measured_ms=own.p50_ms, p90_ms=own.p90_ms, others_ms=tuple(other.p50_ms for other in others)
    )


def _between(too_slow: float, fits: float, wanted: float) -> float:
    """Return `wanted` if it lies between the bounds, else a correction that does."""
    if too_slow * NARROW**0.5 < wanted < fits / NARROW**0.5:
        return wanted
    if math.isinf(fits):
        return max(wanted, too_slow) * STEP
    return math.sqrt(too_slow * fits) if too_slow else min(wanted, fits) * 0.9


def _best(attempts: Sequence[Attempt], budget_ms: float, others_ms: Sequence[float]) -> Attempt | None:
    within = [a for a in attempts if a.measured_ms <= budget_ms and all(_met(a.others_ms, others_ms))]
    return max(within, key=lambda attempt: attempt.plan.value, default=None)


def _fastest(
    build: Callable[[Corrections], Problem],
    solve: Callable[[Problem], Plan],
    measure: Callable[[Plan], Sequence[Measurement]],
    corrections: Corrections,
) -> Attempt | None:
    """Measure the fastest plan there is: what is achievable is a fact, not a forecast. None where other budgets forbid it."""
    problem = build(corrections)
    problem = replace(problem, budget_ns=solve(replace(problem, budget_ns=0)).min_achievable_ns)
    plan = solve(problem)
    if not plan.found:
        return None
    check(problem, plan)
    return _try(plan, corrections, measure, [])
