"""Lines that outlive every process: who did what, in which process."""

import json
import os
from pathlib import Path
from typing import Any

ONCE = {"ticks": 1, "tick_s": 0.0, "hold": None, "ledger": None}


def toy(spec: dict[str, Any]) -> dict[str, Any]:
    """What a toy job is to do; of one that came through the API its name says in which file that stands, or it ticks once."""
    if "toy" in spec:
        return dict(spec["toy"])
    named = Path(spec["name"] or "nothing")
    return dict(json.loads(named.read_text())) if named.is_file() else ONCE


def write(spec: dict[str, Any], *words: object) -> None:
    """Append one line in one write, which other processes cannot interleave; nothing for a job without a ledger."""
    ledger = toy(spec)["ledger"]
    if ledger is None:
        return
    line = " ".join(str(word) for word in (*words, os.getpid())) + "\n"
    with Path(ledger).open("a") as file:
        file.write(line)


def has(spec: dict[str, Any], word: str) -> bool:
    """Whether any process has written a line that begins with `word`."""
    return any(line.split()[0] == word for line in Path(toy(spec)["ledger"]).read_text().splitlines())
