"""Rounds of Schemathesis, each a run of its command with a seed of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one run saw."""

    num_cases: int
    made: frozenset[str]
    """POST routes that made something."""
    faults: tuple[str, ...]


def attack(service: Running, *, num_cases: int, seed: int, quick: bool = False, max_examples: int = 30) -> list[Round]:
    """Rounds with either key until `num_cases` are through; what they leave undone is a fault of the last."""
    known = service.fill()
    rounds: list[Round] = []
    made: frozenset[str] = frozenset()
    while sum(one.num_cases for one in rounds) < num_cases or len(rounds) < len(KEYS):
        role = list(KEYS)[len(rounds) % len(KEYS)]
        thorough = not quick and len(rounds) < len(KEYS)
        phases = "examples,coverage,fuzzing,stateful" if thorough else "fuzzing,stateful"
        one = _round(service, known, KEYS[role], seed + len(rounds), phases=phases, max_examples=max_examples)
        rounds.append(one)
        made |= one.made
    missing = [f"POST {path} never made anything" for path in MUST_SUCCEED if path not in made]
    return [*rounds, Round(num_cases=0, made=made, faults=(*missing, *unforeseen(service)))]


def _round(
    service: Running, known: dict[str, str], scopes: list[str], seed: int, *, phases: str, max_examples: int
) -> Round:
    key = service.key(*scopes)
    report = service.folder / f"report-{seed}.json"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SCHEMATHESIS_HOOKS": "tests.fuzz.hooks",
        "FUZZ_KNOWN": json.dumps(known),
        "FUZZ_TABLE": service.table(known["lut_id"]),
        "FUZZ_OWN": json.dumps({"key_id": key["id"], "project_id": key["project_id"], "device_id": "local"}),
        "FUZZ_SEED": str(seed),
    }
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(CONFIG), "--no-color",
        "run", f"{service.url}/v1/openapi.json", "--header", f"Authorization: Bearer {key['key']}",
        "--seed", str(seed), "--max-examples", str(max_examples), "--phases", phases,
        "--report", "json", "--report-json-path", str(report),
    ]  # fmt: skip
    subprocess.run(command, env=environment, cwd=service.folder, check=False)
    return _read(json.loads(report.read_text()), seed)


def _read(report: dict[str, Any], seed: int) -> Round:
    made = {
        name.removeprefix("POST ")
        for name, phases in report["valid_rates"].items()
        if name.startswith("POST ") and any(rates["accepted"] for rates in phases.values())
    }
    where = [f"{fault['title']}: {', '.join(fault['operations'])} (seed {seed})" for fault in report["failures"]]
    if not report["complete"] or report["errors"] or report["operations"]["tested"] < report["operations"]["total"]:
        where.append(f"seed {seed} was not gone through: {report['errors']} {report['operations']}")
    return Round(num_cases=report["test_cases"]["generated"], made=frozenset(made), faults=tuple(where))
