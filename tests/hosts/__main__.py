"""`python -m tests.hosts`: jobs on two hosts whose network fails, in network namespaces of this machine.

Needs root and iproute2; where there are none, says so and exits with 77.
"""

import argparse
import json
import logging
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "integration")]

from tests.buckets import s3_server  # noqa: E402
from tests.hosts import agent, partition  # noqa: E402
from tests.hosts.lab import ADDRESS, NoLab, lab, postgres  # noqa: E402
from tests.hosts.partition import Case  # noqa: E402

EXIT_FAILED, EXIT_NO_LAB = 1, 77
QUICK = Case(name="checkpoint-refused", how="silent", deaf=True)
CASES = (
    QUICK,
    Case(name="result-refused", how="silent", deaf=True, hold=partition.TICKS),
    Case(name="link-down-refused", how="down", deaf=True),
    Case(name="leaves-when-healed", how="down"),
    Case(name="leaves-while-cut-off", how="silent", heals=False),
    Case(
        name="default-timeouts", how="silent", heals=False, recovery_s=15.0,
        settings={"worker_heartbeat_s": 1.0, "worker_timeout_s": 6.0, "worker_cut_off_s": 45.0},
    ),
)  # fmt: skip


def main() -> int:
    """Run the checks and print a line for each; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.hosts", description=__doc__)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=", ".join([case.name for case in CASES] + ["agent"]))
    parser.add_argument("--quick", action="store_true", help=f"only {QUICK.name}")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    wanted = [QUICK.name] if options.quick else options.checks
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is taken down
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    ok = True
    try:
        with (
            lab() as made,
            postgres() as server,
            s3_server(ADDRESS) as endpoint,
            tempfile.TemporaryDirectory() as folder,
        ):

            def check(name: str, body: Callable[[Path, str], dict[str, float]]) -> None:
                nonlocal ok
                if not wanted or name in wanted:
                    (home := Path(folder, name)).mkdir()
                    ok &= _told(name, lambda: body(home, partition.new_database(server, name)), as_json=options.json)

            for case in CASES:
                check(case.name, lambda home, url, case=case: partition.run(made, case, home, url, endpoint))
            check("agent", lambda home, url: agent.run(made, home, url))
    except NoLab as reason:
        sys.stderr.write(f"not run: {reason}\n")
        return EXIT_NO_LAB
    return 0 if ok else EXIT_FAILED


def _told(name: str, body: Callable[[], dict[str, float]], *, as_json: bool) -> bool:
    started_at, failure, took = time.monotonic(), "", {}
    try:
        took = body()
    except Exception as error:  # noqa: BLE001 - whatever broke, the other checks are run
        traceback.print_exc()
        failure = f"{type(error).__name__}: {error}"
    figures = {key: round(value, 1) for key, value in {**took, "seconds": time.monotonic() - started_at}.items()}
    if as_json:
        print(json.dumps({"check": name, "ok": not failure, **figures, "failure": failure or None}), flush=True)
    else:
        shown = ", ".join(f"{key.removesuffix('_s')} {value} s" for key, value in figures.items() if key != "seconds")
        print(
            f"{name:22} {'ok' if not failure else 'FAILED':7} {figures['seconds']:6} s  {failure or shown}", flush=True
        )
    return not failure


if __name__ == "__main__":
    sys.exit(main())
