"""Compare two latency tables, entry by entry."""

from dataclasses import asdict
from typing import Any

from lut.compare import compare
from lut.table import LatencyTable
from workers.context import StepContext


def run(context: StepContext) -> dict[str, Any]:
    """Return the fields of the wire's `LutComparison` but the tables' ids."""
    return asdict(compare(*(LatencyTable.load(context.path(name)) for name in ("a.json", "b.json"))))
