"""Ends the job."""

import json
from typing import Any

from toy_steps import ledger
from workers.context import StepContext


def run(context: StepContext) -> dict[str, Any]:
    """Read what the other steps left, files and results."""
    ledger.write(context.spec["job"], "last")
    assert context.spec["results"]["work"]["ticks"] == json.loads(context.path("work.json").read_text())["ticks"]
    return {"outcome": "budget_met", "summary": {"accuracy": 0.5}}
