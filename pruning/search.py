"""From a plan that should keep the budget to a network that was measured to keep it.

A knapsack picks the entries that are too good to be true, so its plans come out slower than the table says (method section 9).
So: solve, build, measure; correct the table by what the measurement shows; solve again, until the measured latency is within
the budget and close to it. Larger corrections give faster plans, so the tries close in on the best correction from both sides.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from pruning.check import check
from pruning.problem import Plan, Problem

MAX_ATTEMPTS = 6
SLACK = 0.03
"""A plan that leaves less of the budget unused than this is not improved any further."""
NARROW = 1.004
"""Ratio of the corrections on both sides below which nothing is left between them."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One plan, and what it took when it was built and measured."""

    plan: Plan
    predicted_ms: float
    """By the table, as corrected so far."""
    measured_ms: float
    p90_ms: float
    correction: float
    """Factor on the table's latencies under which the plan was solved."""

    @property
    def choice(self) -> tuple[object, ...]:
        """What the plan decides; two plans that decide alike are one network."""
        return tuple(sorted(self.plan.widths.items())), self.plan.removed, tuple(sorted(self.plan.patterns.items()))


@dataclass(frozen=True, kw_only=True)
class Search:
    """All attempts, and the one to keep."""

    attempts: tuple[Attempt, ...]
    chosen: Attempt | None
    """Of the most value among those measured within the budget; None when there is none."""
    min_achievable_ms: float
    """Least latency any offered plan reaches: measured when nothing kept the budget, else by the corrected table."""


def search(
    build: Callable[[float], Problem],
    solve: Callable[[Problem], Plan],
    measure: Callable[[Plan], tuple[float, float]],
    *,
    budget_ms: float,
    max_attempts: int = MAX_ATTEMPTS,
    on_attempt: Callable[[Attempt], None] = lambda attempt: None,
) -> Search:
    """Return the plan of most value whose network was measured within `budget_ms`.

    `build(correction)` gives the problem with every latency multiplied; `measure` gives (p50, p90) in ms of the network a plan
    describes. Every plan is checked without the solver; a plan over its budget raises `pruning.check.PlanError`.
    """
    attempts: list[Attempt] = []
    too_slow, fits = 0.0, math.inf
    correction = 1.0
    for _ in range(max_attempts):
        problem = build(correction)
        plan = solve(problem)
        if not plan.found:
            fits = min(fits, correction)  # nothing is fast enough under this correction: look below it
            if not attempts:
                break
            correction = _between(too_slow, fits, correction)
            if fits < too_slow * NARROW:
                break
            continue
        check(problem, plan)
        attempt = _try(plan, correction, measure, attempts)
        attempts.append(attempt)
        on_attempt(attempt)
        if attempt.measured_ms <= budget_ms:
            fits = min(fits, correction)
            if attempt.measured_ms >= budget_ms * (1 - SLACK):
                break
        else:
            too_slow = max(too_slow, correction)
        true_correction = correction * attempt.measured_ms / attempt.predicted_ms
        correction = _between(too_slow, fits, true_correction)
        if fits < too_slow * NARROW:
            break
    chosen = _best(attempts, budget_ms)
    floor_ms = min((a.plan.min_achievable_ns for a in attempts), default=plan.min_achievable_ns) / 1e6
    if chosen is None:
        fastest = _fastest(build, solve, measure, correction, on_attempt)
        attempts.append(fastest)
        floor_ms = min(a.measured_ms for a in attempts)
        chosen = _best(attempts, budget_ms)
    return Search(attempts=tuple(attempts), chosen=chosen, min_achievable_ms=floor_ms)


def _try(
    plan: Plan, correction: float, measure: Callable[[Plan], tuple[float, float]], before: list[Attempt]
) -> Attempt:
    """Measure a plan, unless an attempt before it decided alike."""
    attempt = Attempt(
        plan=plan, predicted_ms=plan.latency_ns / 1e6, measured_ms=math.nan, p90_ms=math.nan, correction=correction
    )
    for old in before:
        if old.choice == attempt.choice:
            return replace(attempt, measured_ms=old.measured_ms, p90_ms=old.p90_ms)
    p50_ms, p90_ms = measure(plan)
    return replace(attempt, measured_ms=p50_ms, p90_ms=p90_ms)


def _between(too_slow: float, fits: float, wanted: float) -> float:
    """Return `wanted` if it lies between the bounds, else a correction that does."""
    if too_slow * NARROW**0.5 < wanted < fits / NARROW**0.5:
        return wanted
    if math.isinf(fits):
        return max(wanted, too_slow) * 1.02
    return math.sqrt(too_slow * fits) if too_slow else min(wanted, fits) * 0.9


def _best(attempts: list[Attempt], budget_ms: float) -> Attempt | None:
    within = [attempt for attempt in attempts if attempt.measured_ms <= budget_ms]
    return max(within, key=lambda attempt: attempt.plan.value, default=None)


def _fastest(
    build: Callable[[float], Problem],
    solve: Callable[[Problem], Plan],
    measure: Callable[[Plan], tuple[float, float]],
    correction: float,
    on_attempt: Callable[[Attempt], None],
) -> Attempt:
    """Measure the fastest plan there is: what is achievable is a fact, not a forecast."""
    problem = build(correction)
    problem = replace(problem, budget_ns=solve(replace(problem, budget_ns=0)).min_achievable_ns)
    plan = solve(problem)
    check(problem, plan)
    attempt = _try(plan, correction, measure, [])
    on_attempt(attempt)
    return attempt
