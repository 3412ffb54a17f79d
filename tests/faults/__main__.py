"""`python -m tests.faults`: runs of a real service with one fault each, and whether every job still ended once and right.

Exit code 1 when a run broke a promise; its folder is kept. A run is repeated by its seed, but for what the machine adds.
"""

import argparse
import itertools
import json
import shutil
import statistics
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "integration")]

from tests.faults import contract  # noqa: E402
from tests.faults.catalogue import FAULTS, NotHere, carry_out  # noqa: E402
from tests.faults.databases import Postgres  # noqa: E402

EXIT_BROKEN = 1


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run went."""

    fault: str
    database: str
    seed: str
    seconds: float
    recovery_s: float | None
    broken: str = ""
    not_run: str = ""
    folder: str = ""

    def line(self, number: int) -> str:
        """The run as a line for people."""
        how = "BROKEN" if self.broken else "not run" if self.not_run else "ok"
        took = "" if self.recovery_s is None else f"recovered in {self.recovery_s:.1f} s"
        text = f"{self.broken} ({self.folder})" if self.broken else self.not_run or took
        return f"{number:4} {self.fault:10} {self.database:8} {self.seed:12} {how:7} {self.seconds:6.1f} s  {text}"

    def as_json(self) -> str:
        """The run as a line of a bench."""
        found = {
            "check": f"faults/{self.fault}", "value": self.recovery_s, "unit": "s", "target": contract.RECOVERY_S,
            "ok": not self.broken, "database": self.database, "seed": self.seed, "seconds": round(self.seconds, 1),
        }  # fmt: skip
        if self.recovery_s is None:
            found["reason"] = self.not_run or "no job was hit while it ran"
        return json.dumps(found | ({"broken": self.broken} if self.broken else {}))


def main() -> int:
    """Run the runs and print a line for each; return the exit code."""
    options = _options()
    plan = [
        (name, database, f"{options.seed}.{number}")
        for number, (name, database) in zip(range(options.runs), itertools.cycle(_kinds(options)), strict=False)
    ]
    outcomes: list[Outcome] = []
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="secateur-faults-"))
        folder.chmod(0o755)  # as root a database server runs as another user, who must be able to enter it
        shared = stack.enter_context(Postgres()) if any(one[1] == "postgres" for one in plan) else None
        with ThreadPoolExecutor(options.at_once) as pool:
            futures = [pool.submit(_run, *one, folder, shared, shipped=options.shipped) for one in plan]
            for number, future in enumerate(as_completed(futures), start=1):
                outcome = future.result()
                outcomes.append(outcome)
                print(outcome.as_json() if options.json else outcome.line(number), flush=True)
    if not any(folder.iterdir()):
        folder.rmdir()
    _tell(outcomes, as_json=options.json)
    return EXIT_BROKEN if any(one.broken for one in outcomes) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=2, help="runs at the same time")
    parser.add_argument(
        "--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS), metavar="NAME", help=", ".join(FAULTS)
    )
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000, help="of all runs together")
    parser.add_argument("--database", choices=["sqlite", "postgres", "both"], default="both")
    parser.add_argument("--shipped", action="store_true", help="with the shipped timeouts; recovery may take 10 s")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser.parse_args()


def _kinds(options: argparse.Namespace) -> list[tuple[str, str]]:
    wanted = ("sqlite", "postgres") if options.database == "both" else (options.database,)
    kinds = [(name, database) for name in options.faults for database in wanted if database in FAULTS[name].databases]
    if not kinds:
        raise SystemExit("none of these faults is one of this database")
    return kinds


def _run(name: str, database: str, seed: str, root: Path, shared: Postgres | None, *, shipped: bool) -> Outcome:
    folder = root / f"{name}-{database}-{seed}"
    folder.mkdir()
    began, broken, not_run, recovery_s = time.monotonic(), "", "", None
    try:
        recovery_s = carry_out(name, database, seed, folder, shared, shipped=shipped)
    except NotHere as reason:
        not_run = str(reason)
    except Exception as error:  # noqa: BLE001 - whatever broke, the other runs go on
        broken = f"{type(error).__name__}: {error}"
        (folder / "broken.txt").write_text(traceback.format_exc())
    if not broken:
        shutil.rmtree(folder)
    return Outcome(
        fault=name, database=database, seed=seed, seconds=time.monotonic() - began, recovery_s=recovery_s,
        broken=broken, not_run=not_run, folder=str(folder),
    )  # fmt: skip


def _tell(outcomes: list[Outcome], *, as_json: bool) -> None:
    """Print the summary: a row for each fault and database."""
    kinds = sorted(
        {(one.fault, one.database) for one in outcomes}, key=lambda kind: (list(FAULTS).index(kind[0]), kind[1])
    )
    if not as_json:
        print(f"\n{'fault':10} {'database':8} {'runs':>5} {'broken':>6} {'not run':>7}  recovery (median, longest)")
    for fault, database in kinds:
        runs = [one for one in outcomes if (one.fault, one.database) == (fault, database)]
        num_broken, num_not_run = sum(bool(one.broken) for one in runs), sum(bool(one.not_run) for one in runs)
        took = [one.recovery_s for one in runs if one.recovery_s is not None]
        if as_json:
            found = {"check": f"faults/{fault}/broken", "value": num_broken, "unit": "runs", "target": 0}
            print(
                json.dumps(
                    {**found, "ok": not num_broken, "database": database, "runs": len(runs), "not_run": num_not_run}
                )
            )
        else:
            shown = f"{statistics.median(took):.1f} s, {max(took):.1f} s" if took else "-"
            print(f"{fault:10} {database:8} {len(runs):5} {num_broken:6} {num_not_run:7}  {shown}")


if __name__ == "__main__":
    sys.exit(main())
