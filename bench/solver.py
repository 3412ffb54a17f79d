"""`python -m bench solver --instances FILE... [--json]`: every named solver on published and synthetic instances.

Each plan goes through the independent checker. A file that cannot be read, a solver that fails and a plan that the checker
refuses are reported, and the run goes on; its exit code is then 1.
"""

import argparse
import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from bench._instances import NS_PER_US, Instance, read_instances
from bench._shapes import BLOCKS, resnet_problem
from pruning.check import PlanError, check, evaluate
from pruning.problem import Plan, Problem
from pruning.solve import SOLVERS

KIB_PER_MIB = 1024
NO_FIGURES = dict.fromkeys(("value", "latency_us", "bound", "gap", "seconds", "below_optimum"))


def main(arguments: list[str]) -> int:
    """Print one row per instance and solver, then a summary per solver; return 1 when something failed, else 0."""
    options = _parser().parse_args(arguments)
    rows: list[dict[str, Any]] = []
    files, unread = _read(options.instances)
    for row in _rows(options, files):
        rows.append(row)
        print(json.dumps(row) if options.json else _line(row), flush=True)
    if not options.json:
        print(_summary(rows))
    return 1 if unread or any(row["status"] == "failed" for row in rows) else 0


def _read(paths: list[Path]) -> tuple[list[Instance], int]:
    """Return the instances of all files that can be read, and how many cannot."""
    instances: list[Instance] = []
    unread = 0
    for path in paths:
        try:
            instances += read_instances(path)
        except ValueError as error:
            unread += 1
            print(error, file=sys.stderr)
    return instances, unread


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench solver", description=__doc__)
    parser.add_argument("--instances", nargs="+", type=Path, default=[], help="instance files, JSON or JSON.gz")
    parser.add_argument("--shapes", nargs="+", choices=sorted(BLOCKS), default=[], help="synthetic networks")
    parser.add_argument("--several", action="store_true", help="the synthetic networks on two devices, and their bytes")
    parser.add_argument("--traced", nargs="+", default=[], help="torchvision networks on a synthetic device")
    parser.add_argument("--widths", type=int, default=32, help="widths per group of synthetic and traced networks")
    parser.add_argument("--patterns", type=int, default=6, help="patterns per layer of the synthetic networks")
    parser.add_argument(
        "--budgets", nargs="+", type=float, default=[0.6, 0.4, 0.2], help="their budgets, of dense latency"
    )
    parser.add_argument("--solvers", nargs="+", choices=list(SOLVERS), default=list(SOLVERS))
    parser.add_argument("--tolerance", type=float, default=1e-3, help="proven gap at which a solver may stop")
    parser.add_argument("--time-limit-s", type=float, default=10.0, help="per solver and instance")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser


def _rows(options: argparse.Namespace, instances: list[Instance]) -> Iterator[dict[str, Any]]:
    for instance in instances:
        yield from _stated(instance)
        for name in options.solvers:
            yield _solve(instance.name, instance.problem, name, options, _exact_value(instance))
    for label, problem in _made(options):
        for name in options.solvers:
            yield _solve(label, problem, name, options, None)


def _made(options: argparse.Namespace) -> Iterator[tuple[str, Problem]]:
    """Yield the problems that come from no file, with their labels."""
    for network in options.shapes:
        for budget in options.budgets:
            problem = resnet_problem(network, options.widths, options.patterns, budget, several=options.several)
            yield f"{network}-{options.widths}x{options.patterns}@{budget}", problem
    for network in options.traced:
        from bench._traced import traced_problems  # needs torch; nothing else here does

        for budget, problem in zip(
            options.budgets, traced_problems(network, options.widths, options.budgets), strict=True
        ):
            yield f"{network}-{options.widths}@{budget}", problem


def _exact_value(instance: Instance) -> float | None:
    value = instance.exact.get("value")
    return float(value) if isinstance(value, int | float) and value else None


def _stated(instance: Instance) -> Iterator[dict[str, Any]]:
    """Yield the published answers in the same form, looked up again in our tables."""
    for solver, answer in (("official_mdp", instance.official), ("exact_opt_1us", instance.exact)):
        if not answer:
            continue
        try:
            removed = answer.get("removed_blocks") or []
            gone = {group_id for stage in instance.problem.stages if stage.id in removed for group_id in stage.groups}
            widths = {group_id: 0 if group_id in gone else width for group_id, width in answer["keep"].items()}
            totals = evaluate(instance.problem, widths, removed=removed)
        except (PlanError, LookupError, TypeError, AttributeError) as error:
            yield _failed(
                instance.name, instance.problem, solver, "stated", f"the stated answer does not fit: {error!r}"
            )
            continue
        over = totals.latency_ns > instance.problem.budget_ns
        plan = Plan(
            status="over_budget" if over else "stated",
            solver=solver,
            widths=widths,
            removed=tuple(removed),
            value=totals.value,
            latency_ns=totals.latency_ns,
        )
        row = _row(instance.name, instance.problem, plan, _exact_value(instance))
        yield {**row, "bound": None, "gap": None, "seconds": None, "reason": "published without bound and time"}


def _solve(
    label: str, problem: Problem, name: str, options: argparse.Namespace, exact_value: float | None
) -> dict[str, Any]:
    try:
        plan = SOLVERS[name](problem, tolerance=options.tolerance, time_limit_s=options.time_limit_s)
        check(problem, plan)
    except (PlanError, ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        return _failed(label, problem, name, "failed", repr(error))
    row = _row(label, problem, plan, exact_value)
    if not plan.found:
        row |= {**NO_FIGURES, "seconds": row["seconds"], "reason": plan.status}
    return row


def _failed(label: str, problem: Problem, solver: str, status: str, reason: str) -> dict[str, Any]:
    row = _row(label, problem, Plan(status=status, solver=solver), None)
    return {**row, **NO_FIGURES, "reason": reason}


def _row(label: str, problem: Problem, plan: Plan, exact_value: float | None) -> dict[str, Any]:
    return {
        "instance": label,
        "solver": plan.solver,
        "status": plan.status,
        "value": plan.value,
        "latency_us": plan.latency_ns / NS_PER_US,
        "capacity_us": problem.budget_ns / NS_PER_US,
        "bound": plan.bound,
        "gap": plan.gap,
        "seconds": round(plan.seconds, 4),
        "keep": plan.widths,
        "removed_blocks": list(plan.removed),
        "other_costs": {b.id: [plan.other_costs.get(b.id), b.limit] for b in problem.other_budgets},
        "min_achievable_us": plan.min_achievable_ns / NS_PER_US,
        "below_optimum": None if exact_value is None else 1.0 - plan.value / exact_value,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // KIB_PER_MIB,
    }


def _line(row: dict[str, Any]) -> str:
    def shown(key: str, form: str) -> str:
        return "-" if row[key] is None else format(row[key], form)

    return (
        f"{row['instance']:24} {row['solver']:14} {row['status']:12} value {shown('value', '.2f'):>12}"
        f" latency {shown('latency_us', '.0f'):>8}/{shown('capacity_us', '.0f'):<8} us"
        f" below optimum {shown('below_optimum', '.3%'):>8} gap {shown('gap', '.4%'):>9} {shown('seconds', '.3f'):>8} s"
    )


def _summary(rows: list[dict[str, Any]]) -> str:
    lines = [
        "",
        "| solver | instances | over budget | below optimum: median, worst | gap: worst | s: median, worst |",
        "|---|---|---|---|---|---|",
    ]
    for solver in dict.fromkeys(row["solver"] for row in rows):
        own = [row for row in rows if row["solver"] == solver]
        below = [row["below_optimum"] for row in own if row["below_optimum"] is not None and row["value"] is not None]
        gaps = [row["gap"] for row in own if row["gap"] is not None]
        seconds = [row["seconds"] for row in own if row["seconds"] is not None]
        over = sum(row["value"] is not None and row["latency_us"] > row["capacity_us"] for row in own)
        lines.append(
            f"| {solver} | {len(own)} | {over} | {_pair(below, '.3%')} | {format(max(gaps), '.4%') if gaps else '-'}"
            f" | {_pair(seconds, '.3f')} |"
        )
    lines.append(f"\npeak memory {max(row['peak_memory_mib'] for row in rows)} MiB" if rows else "")
    return "\n".join(lines)


def _pair(numbers: list[float], form: str) -> str:
    return f"{median(numbers):{form}}, {max(numbers):{form}}" if numbers else "-"
