"""`python -m bench service [--parts submit watch drain soak] [--database postgres|sqlite] [--json]`: the service under load.

One API process, its database, the clients and, where jobs run, toy workers share this machine; everything is made for the
bench and goes with it. `submit`: jobs by many clients at an even rate, and as fast as they can. `watch`: event streams, the lag
from the commit of an event to its arrival. `drain`: a long queue of unequal submitters through two workers. `soak`: memory of
the API and a worker under a steady load.
"""

import argparse
import asyncio
import json
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bench._queue import drain, soak
from bench._stack import NoStack
from bench._traffic import submit, watch

SECONDS = {"submit": 20.0, "watch": 30.0, "drain": 3600.0, "soak": 1800.0}
PARTS: dict[str, Callable[[argparse.Namespace], Iterator[dict[str, Any]]]] = {
    "submit": submit,
    "watch": watch,
    "drain": drain,
    "soak": soak,
}


def main(arguments: Sequence[str]) -> int:
    """Print a row per figure; return 1 when one misses its target or could not be taken, else 0."""
    parser = argparse.ArgumentParser(prog="python -m bench service", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--database", choices=("postgres", "sqlite"), default="postgres")
    parser.add_argument("--seconds", type=float, help=f"length of each part, at most; by default {SECONDS}")
    parser.add_argument("--clients", type=int, default=50, help="clients that submit at once")
    parser.add_argument("--rate", type=float, default=200.0, help="jobs a second that they submit together")
    parser.add_argument("--watchers", type=int, default=1000, help="open event streams, ten to a job")
    parser.add_argument("--jobs", type=int, default=10_000, help="jobs in the queue that is drained")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(arguments)
    _raise_open_files()
    all_ok = True
    for part in options.parts:
        seconds = options.seconds or SECONDS[part]
        for row in _rows(part, argparse.Namespace(**{**vars(options), "seconds": seconds})):
            all_ok &= row["ok"] is not False
            print(json.dumps(row) if options.json else _line(row), flush=True)
    return 0 if all_ok else 1


def _rows(part: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    try:
        for row in PARTS[part](options):
            yield row | {"database": options.database}
    except (NoStack, OSError, asyncio.IncompleteReadError) as error:
        reason = str(error) or type(error).__name__
        yield {
            "check": part, "value": None, "unit": "", "target": None, "ok": False, "reason": reason,
            "database": options.database,
        }  # fmt: skip


def _line(row: dict[str, Any]) -> str:
    if row["value"] is None:
        return f"{row['check']:28} {row['reason']}"
    target = "" if row["target"] is None else f"  {row['target']:>8} {'kept' if row['ok'] else 'MISSED'}"
    return f"{row['check']:28} {row['value']:10.2f} {row['unit']:8}{target}"


def _raise_open_files() -> None:
    """A stream is a socket, here and in the API: take as many as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
