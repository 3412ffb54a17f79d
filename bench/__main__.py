"""`python -m bench <name> [--json] ...`: run one bench; its own options follow its name."""

import importlib
import sys
from pathlib import Path

from lut.measure.memory import restart

APART = ("demo", "service")
"""Benches that start the service, whose processes see to their own memory."""


def names() -> list[str]:
    """Return the benches there are."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


def main(arguments: list[str]) -> int:
    """Run the bench named first with the rest of the arguments; return its exit code, 2 for an unknown name."""
    if not arguments or arguments[0] not in names():
        print(f"usage: python -m bench {{{','.join(names())}}} [--json] ...", file=sys.stderr)
        return 2
    bench = importlib.import_module(f"bench.{arguments[0]}")
    return int(bench.main(arguments[1:]))


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] not in APART:
        restart()
    sys.exit(main(sys.argv[1:]))
