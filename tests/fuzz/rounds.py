"""Rounds of Schemathesis, each a run of its command with a seed of its own."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.fuzz.service import ROOT, Running, unforeseen

CONFIG = Path(__file__).parent / "schemathesis.toml"
KEYS = {"admin": ["admin"], "limited": ["read", "submit"]}
MUST_SUCCEED = (
    "/v1/models",
    "/v1/datasets",
    "/v1/luts",
    "/v1/prune-jobs",
    "/v1/lut-builds",
    "/v1/api-keys",
    "/v1/uploads",
)
"""What an administrator's rounds must have made at least once: else they never came to what lies behind."""


WALKS = 10
"""Times as many walks along links as requests to a route."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one run saw."""

    database: str
    key: str
    num_cases: int
    num_requests: dict[str, int]
    """By phase, those included that a check made of its own."""
    made: frozenset[str]
    """POST routes that made something."""
    faults: tuple[str, ...]


def attack(service: Running, *, num_cases: int, seed: int, quick: bool = False, max_examples: int = 30) -> list[Round]:
    """Rounds with either key until `num_cases` are through; what they leave undone is a fault of the last."""
    known = service.fill()
    rounds: list[Round] = []
    made: frozenset[str] = frozenset()
    while sum(one.num_cases for one in rounds) < num_cases or len(rounds) < len(KEYS):
        key = list(KEYS)[len(rounds) % len(KEYS)]
        thorough = not quick and len(rounds) < len(KEYS)
        number = seed + len(rounds)
        phases = "coverage,fuzzing" if thorough else "fuzzing"
        alone = _round(service, known, key, number, phases=phases, max_examples=max_examples)
        # An example of the stateful phase is a walk along links, which all routes share.
        walks = _round(service, known, key, number, phases="stateful", max_examples=WALKS * max_examples)
        rounds.append(_both(alone, walks))
        made |= rounds[-1].made
    missing = [f"POST {path} never made anything" for path in MUST_SUCCEED if path not in made and not quick]
    return [*rounds[:-1], replace(rounds[-1], faults=(*rounds[-1].faults, *missing, *unforeseen(service)))]


def _both(one: Round, other: Round) -> Round:
    requests = Counter(one.num_requests) + Counter(other.num_requests)
    return replace(
        one,
        num_cases=one.num_cases + other.num_cases,
        num_requests=dict(requests),
        made=one.made | other.made,
        faults=(*one.faults, *other.faults),
    )


def _round(service: Running, known: dict[str, str], role: str, seed: int, *, phases: str, max_examples: int) -> Round:
    key = service.key(*KEYS[role])
    report, counts = (service.folder / f"{name}-{seed}-{phases}.json" for name in ("report", "counts"))
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SCHEMATHESIS_HOOKS": "tests.fuzz.hooks",
        "FUZZ_KNOWN": json.dumps(known),
        "FUZZ_TABLE": service.table(known["lut_id"]),
        "FUZZ_OWN": json.dumps(
            {"key_id": [key["id"], service.admin_id], "project_id": [key["project_id"]], "device_id": ["local"]}
        ),
        "FUZZ_SEED": str(seed),
        "FUZZ_COUNTS": str(counts),
    }
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(CONFIG), "--no-color",
        "run", f"{service.url}/v1/openapi.json", "--header", f"Authorization: Bearer {key['key']}",
        "--seed", str(seed), "--max-examples", str(max_examples), "--phases", phases,
        "--report", "json", "--report-json-path", str(report),
    ]  # fmt: skip
    subprocess.run(command, env=environment, cwd=service.folder, check=False)
    seen = json.loads(report.read_text())
    return Round(
        database=service.database,
        key=role,
        num_cases=seen["test_cases"]["generated"],
        num_requests=json.loads(counts.read_text()),
        made=_made(seen),
        faults=_faults(seen, f"{service.database}, {role}, seed {seed}", phases.split(",")),
    )


def _made(report: dict[str, Any]) -> frozenset[str]:
    return frozenset(
        name.removeprefix("POST ")
        for name, phases in report["valid_rates"].items()
        if name.startswith("POST ") and any(rates["accepted"] for rates in phases.values())
    )


def _faults(report: dict[str, Any], where: str, phases: list[str]) -> tuple[str, ...]:
    faults = [f"{fault['title']}: {', '.join(fault['operations'])} ({where})" for fault in report["failures"]]
    states = {name.lower(): state for name, state in (report["phases"] or {}).items()}
    undone = [name for name in phases if states[name]["status"] not in ("success", "failure")]
    operations = report["operations"] or {}
    # Walks pass by what no link leads to or from.
    untested = "fuzzing" in phases and operations["tested"] < operations["total"]
    if not report["complete"] or report["errors"] or undone or untested:
        faults.append(f"not gone through: {undone} {report['errors']} {operations} ({where})")
    return tuple(faults)
