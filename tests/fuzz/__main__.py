"""`python -m tests.fuzz --cases 5000 --database both --seed 1`: exit code 1 when anything fails.

Each database gets a service of its own. Schemathesis goes at it with an administrator's key, and then with one that may only
read and submit, in rounds of growing seeds until the cases are through. Its summary of each round is printed, and in the end how many requests
of each phase there were with either key.
"""

import argparse
import sys
from collections import Counter

from tests.fuzz.rounds import Round, attack
from tests.fuzz.service import running


def main() -> int:
    """Run the rounds; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=5000, help="least requests, of all databases and keys together")
    parser.add_argument("--database", choices=["sqlite", "postgres", "both"], default="both")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--examples", type=int, default=30, help="most requests to a route in a phase of a round")
    parser.add_argument("--quick", action="store_true", help="without the phase that walks through every constraint")
    options = parser.parse_args()
    databases = ("sqlite", "postgres") if options.database == "both" else (options.database,)
    rounds: list[Round] = []
    for database in databases:
        with running(database) as service:
            rounds += attack(
                service,
                num_cases=-(-options.cases // len(databases)),
                seed=options.seed,
                quick=options.quick,
                max_examples=options.examples,
            )
    return told(rounds, options.cases)


def told(rounds: list[Round], least_cases: int) -> int:
    """Print what was seen, by database, key and phase; returns the exit code."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for one in rounds:
        counts.setdefault((one.database, one.key), Counter()).update({**one.num_requests, "cases": one.num_cases})
    for (database, key), count in counts.items():
        phases = ", ".join(f"{name} {number}" for name, number in count.items() if name != "cases")
        print(f"{database}, {key} key: {count['cases']} cases; requests by phase: {phases}")
    faults = [fault for one in rounds for fault in one.faults]
    num_cases = sum(one.num_cases for one in rounds)
    print(f"{num_cases} cases in {len(rounds)} rounds, {len(faults)} faults", *faults, sep="\n  ")
    return 1 if faults or num_cases < least_cases else 0


if __name__ == "__main__":
    sys.exit(main())
