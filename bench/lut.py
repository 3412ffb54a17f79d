"""`python -m bench lut [--networks NAME...] [--runtimes NAME...] [--variants N] [--plans N] [--json]`: how far a latency
table can be trusted.

For each network, runtime, batch and number of threads a table is measured as a job measures it (once more where the machine was
restless and whole networks do not agree with it), calibrated on the dense network, a few slimmed ones, some of them the solver's,
and a few masked ones (each loaded `--loads` times, and up to three times as often where loads differ; a job loads them twice to
six times), and judged on others: random variants (`slimmed`, `masked`), and plans that the solver chose against that very table
(`plan`), which lean on the entries that are too good to be true. Every network is timed in turns with the dense one, so that
drift cancels, and what neighbours of the machine slow down does not count (`lut.measure.turns`); `spread` is by how much its
loads differed. Where the dense network's latency moved between calibration and judgement, both are measured again, and the try
in which it moved least counts, whatever it says of the table. Predictors: `secateur`, the calibrated table (for a plan: the
latency the solver gave it); `built`, the table over the operators of the lowered network; `sum`, that without calibration;
`macs`, a line through multiply-accumulates fitted on the same calibration networks.

`--full` measures every point of every grid, too, and judges that table on the same networks as `full`. `--tables FOLDER` keeps
tables there, what was measured of an unfinished one included, and goes on from what is there. Weights are random: nothing here
depends on them.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from bench._judged import PATTERNS, Case, Judged, calibrating, case, plans, variants
from lut.calibrate import fit
from lut.compare import rank_correlation
from lut.measure.networks import measure_models
from lut.measure.runtime import FILES, Program, RuntimeAbsent, runtime
from lut.measure.tables import measure_step, measure_table
from lut.measure.turns import Turns, in_turns
from lut.pattern import Pattern
from lut.table import LatencyTable
from pruning.calibration import calibrated, doubtful, masks_calibrated
from pruning.network import Network
from pruning.onnx_export import write
from pruning.program import program
from pruning.tables import grid_requests, width_choices

NETWORKS = ("torchvision/resnet18", "torchvision/resnet50", "torchvision/mobilenet_v2", "torchvision/vgg16_bn")
WITHIN = 0.1
MOVED = 0.02
"""Where the dense network's latency moved by more than this between calibration and judgement, both are measured again,"""
TRIES = 3
"""so many times at the most."""
TABLE = ("network", "runtime", "threads", "batch")
"""What tells the tables of a run apart."""
KINDS = (("slimmed",), ("masked",), ("slimmed", "masked"), ("plan",))
"""Networks that are summed up together."""


@dataclass(frozen=True, kw_only=True)
class _Try:
    """Tables calibrated on networks that were timed just before, and others timed just after."""

    fitted: Turns
    trusted: Mapping[str, LatencyTable]
    judged: Sequence[Judged]
    turns: Turns

    @property
    def drift(self) -> float:
        """What the dense network took at the calibration, over what it took at the judgement."""
        return self.fitted.dense_us / self.turns.dense_us

    @property
    def moved(self) -> float:
        """By how much the machine's pace moved in between, relative."""
        return abs(self.drift - 1)


def main(arguments: Sequence[str]) -> int:
    """Print a row per table, kind and predictor, and of all tables (`--json`: per network and predictor, and one per table); return 0."""
    options = _parser().parse_args(arguments)
    if options.tables:
        options.tables.mkdir(parents=True, exist_ok=True)
    if not options.json:
        print(
            "| network | runtime | threads | batch | kind | predictor | n | median error | worst | within 10 % | rank | spread |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    judged: list[dict[str, Any]] = []
    tables = list(product(options.networks, options.runtimes, options.batches, options.threads))
    for num, (name, kind, batch, threads) in enumerate(tables, 1):
        where = {"network": name, "runtime": kind, "threads": threads, "batch": batch}
        print(
            f"table {num} of {len(tables)}: {', '.join(f'{key} {value}' for key, value in where.items())}",
            file=sys.stderr,
        )
        try:
            one = case(name, runtime(kind).profile(threads, batch), tuple(options.patterns))
            rows = [where | row for row in judge(one, options)]
        except RuntimeAbsent as absent:
            rows = [where | {"kind": "table", "num_measurements": None, "reason": str(absent)}]
        for line in map(json.dumps, rows) if options.json else _lines(rows):
            print(line, flush=True)
        judged += [row for row in rows if "predictor" in row]
    if judged and not options.json:
        print(*_summary("| all | | | |", judged), sep="\n")
    return 0


def judge(case: Case, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row on every table measured, and one per network judged and predictor."""
    table, points = _measured(case, _file(case, options.tables))
    table = _agreeing(case, table, options)
    train, masked = calibrating(case, table, options.seed)
    others = list(variants(case, table, masked_every=2, num=options.variants, seed=options.seed + 1))
    yield {"kind": "table", "table": "adaptive", "num_points_full_grid": points, **_figures(table)}
    tables = {"adaptive": table}
    if options.full:
        tables["full"], _ = _measured(case, _file(case, options.tables, "-full"), full=True)
        yield {"kind": "table", "table": "full", "num_points_full_grid": points, **_figures(tables["full"])}
    best = _tried(case, tables, train, masked, others, options)
    fitted, turns, own = best.fitted, best.turns, best.trusted["adaptive"]
    yield {"kind": "calibration", "drift": best.drift, "calm": min(fitted.calm, turns.calm)} | {
        key: getattr(own, key) for key in ("scale", "operator_offset_us", "masked_scale", "residual")
    }
    once = [1.0] * len(train)
    macs = fit([one.macs for one in train], once, [fitted.dense_us, *fitted.measured_us][: len(train)])
    for one, measured_us, spread in zip(best.judged, turns.measured_us, turns.spread, strict=True):
        told = {
            "secateur": one.told_us or case.sum_us(own, one),
            "built": case.sum_us(own, one),
            "sum": case.sum_us(table, one),
            "macs": macs.apply(one.macs, 1),
        }
        if options.full:
            told["full"] = case.sum_us(best.trusted["full"], one)
        for predictor, us in told.items():
            yield _row(one, predictor, us / 1e3, measured_us * best.drift / 1e3) | {"spread": spread}


def _agreeing(case: Case, table: LatencyTable, options: argparse.Namespace) -> LatencyTable:
    """Return the table; measured once more where a job would, the one that whole networks agree with better."""
    if not table.noisy:
        return table
    own = _fitted(case, table, options)
    if not doubtful(own):
        return table
    print("the machine was restless: the table is measured once more", file=sys.stderr)
    again, _ = _measured(case, None, step=table.step)
    best = table if own.residual <= _fitted(case, again, options).residual else again
    best = replace(best, seconds=table.seconds + again.seconds)
    if kept := _file(case, options.tables):
        best.save(kept)
    return best


def _fitted(case: Case, table: LatencyTable, options: argparse.Namespace) -> LatencyTable:
    train, masked = calibrating(case, table, options.seed)
    return _trusted(case, table, train, masked, _timed(case, [*train[1:], *masked], options, math.inf))


def _tried(
    case: Case,
    tables: Mapping[str, LatencyTable],
    train: Sequence[Judged],
    masked: Sequence[Judged],
    others: Sequence[Judged],
    options: argparse.Namespace,
) -> _Try:
    """Return the first try during which the machine's pace hardly moved; where it always did, that in which it moved least."""
    tries: list[_Try] = []
    while not tries or (tries[-1].moved > MOVED and len(tries) < TRIES):
        usual_us = min((us for one in tries for us in (one.fitted.dense_us, one.turns.dense_us)), default=math.inf)
        fitted = _timed(case, [*train[1:], *masked], options, usual_us)
        trusted = {name: _trusted(case, table, train, masked, fitted) for name, table in tables.items()}
        judged = [*others, *plans(case, trusted["adaptive"], options.plans, options.seed + 1)]
        turns = _timed(case, judged, options, min(usual_us, fitted.dense_us))
        tries.append(_Try(fitted=fitted, trusted=trusted, judged=judged, turns=turns))
        if tries[-1].moved > MOVED:
            moved = f"{tries[-1].drift - 1:.1%}"
            print(f"the machine's pace moved by {moved} between calibration and judgement", file=sys.stderr)
    return min(tries, key=lambda one: one.moved)


def _trusted(
    case: Case, table: LatencyTable, train: Sequence[Judged], masked: Sequence[Judged], fitted: Turns
) -> LatencyTable:
    """Return the table, calibrated on what the dense and slimmed networks of `train`, and masked ones, took."""
    truth = [fitted.dense_us, *fitted.measured_us]
    scaled = calibrated(table, [partial(case.sum_us, one=one) for one in train], truth[: len(train)])
    return masks_calibrated(scaled, [partial(case.sum_us, one=one) for one in masked], truth[len(train) :])


def _file(case: Case, folder: Path | None, more: str = "") -> Path | None:
    return folder and folder / f"{case.name.rpartition('/')[2]}-{case.profile.fingerprint}{more}.json"


def _measured(
    case: Case, kept: Path | None, *, step: int | None = None, full: bool = False
) -> tuple[LatencyTable, int]:
    """Return a table of all the case needs, going on from what is `kept`, and the points of its full grid."""
    empty = LatencyTable(profile=case.profile, entries={})
    begun = LatencyTable.load(kept) if kept and kept.exists() else None
    finest = grid_requests(case.costs, width_choices(case.groups, empty))
    step = step or (begun.step if begun else measure_step(case.profile, finest))
    start = LatencyTable(profile=case.profile, entries={}, step=step)
    offered = dict.fromkeys(case.modules, case.patterns)
    requests = grid_requests(case.costs, width_choices(case.groups, start), patterns=offered)
    points = {(request.signature, *pair) for request in requests for pair in request.pairs()}

    def keep(measured: LatencyTable) -> None:
        if kept:
            measured.save(kept)

    table = measure_table(case.profile, requests, start, begun=begun, keep=keep, full=full)
    keep(table)
    return table, len(points)


def _figures(table: LatencyTable) -> dict[str, Any]:
    return {
        "num_measurements": table.num_entries, "seconds": table.seconds, "noise": table.noise, "drift": table.drift,
        "noisy": table.noisy,
    }  # fmt: skip


def _timed(case: Case, networks: Sequence[Judged], options: argparse.Namespace, usual_us: float) -> Turns:
    def made(network: Network) -> Program:
        return program(network, write(network, case.profile.batch))

    seconds = options.seconds / options.loads
    measure = partial(measure_models, profile=case.profile, min_seconds=seconds, rounds=5, min_runs=1)
    programs = [made(one.network) for one in networks]
    return in_turns(measure, made(case.network), programs, options.loads, usual_us=usual_us)


def _row(one: Judged, predictor: str, predicted_ms: float, measured_ms: float) -> dict[str, Any]:
    return {
        "kind": one.kind, "variant": one.variant, "predictor": predictor, "predicted_ms": predicted_ms,
        "measured_ms": measured_ms, "error": predicted_ms / measured_ms - 1,
    }  # fmt: skip


def _lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield a Markdown row per kind and predictor, and a sentence on every table."""
    first = rows[0]
    where = f"| {first['network']} | {first['runtime']} | {first['threads']} | {first['batch']} |"
    for row in rows:
        if "predictor" not in row:
            figures = {key: value for key, value in row.items() if key not in TABLE}
            yield f"<!-- {where[2:-2]}: {figures} -->"
    yield from _summary(where, [row for row in rows if "predictor" in row])


def _summary(where: str, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield a Markdown row per kind of network and predictor; `rank` is over all networks of a table, and the mean of tables."""
    for kinds, predictor in product(KINDS, sorted({row["predictor"] for row in rows})):
        told = [row for row in rows if row["predictor"] == predictor]
        if some := [row for row in told if row["kind"] in kinds]:
            errors = np.abs([row["error"] for row in some])
            yield (
                f"{where} {' + '.join(kinds)} | {predictor} | {len(some)} | {np.median(errors):.2%} | {errors.max():.1%}"
                f" | {(errors <= WITHIN).mean():.1%} | {_rank(told)} | {np.median([row['spread'] for row in some]):.1%} |"
            )


def _rank(rows: Sequence[dict[str, Any]]) -> str:
    tables: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
    for row in rows:
        tables.setdefault(tuple(row[key] for key in TABLE), []).append((row["predicted_ms"], row["measured_ms"]))
    ranks = [rank for some in tables.values() if (rank := rank_correlation(*np.array(some).T)) is not None]
    return f"{np.mean(ranks):.3f}" if ranks else "-"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench lut", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--runtimes", nargs="+", choices=list(FILES), default=["onnxruntime", "torch_eager"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument(
        "--patterns", nargs="+", type=Pattern.parse, default=list(PATTERNS), help="what masks may be of"
    )
    parser.add_argument("--variants", type=int, default=2, help="random networks that each table is judged on")
    parser.add_argument("--plans", type=int, default=3, help="solver's plans that each table is judged on")
    parser.add_argument("--seconds", type=float, default=0.8, help="timed seconds of each network, all loads together")
    parser.add_argument(
        "--loads",
        type=int,
        default=4,
        help="times each network is loaded to be timed, up to three times as often if unsure",
    )
    parser.add_argument("--tables", type=Path, metavar="FOLDER", help="keep tables here, and use those that are here")
    parser.add_argument("--full", action="store_true", help="also measure every point of the grids")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser
