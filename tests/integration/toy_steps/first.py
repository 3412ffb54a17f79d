"""Leaves one file."""

from typing import Any

from toy_steps import ledger
from workers.context import StepContext


def run(context: StepContext) -> dict[str, Any]:
    """Copy the model, which any bytes may be."""
    ledger.write(context.spec["job"], "first")
    context.path("first.txt").write_bytes(context.path("model").read_bytes())
    return {"summary": {"budget_ms": 1.5}, "size": context.path("model").stat().st_size}
