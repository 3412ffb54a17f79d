"""Make one file of a latency table: a picture, or the table as CSV."""

from typing import Any

from lut.formats import to_csv
from lut.plots import PLOTS
from lut.table import LatencyTable
from workers.context import StepContext


def run(context: StepContext) -> dict[str, Any]:
    """Leave `file`; the payload says which, and holds the pairs for the picture of what was predicted."""
    wanted = context.spec["lut_file"]
    table = LatencyTable.load(context.path("table.json"))
    path = context.path("file")
    if wanted["name"] == "csv":
        path.write_text(to_csv(table), encoding="utf-8", newline="")
    else:
        PLOTS[wanted["name"]](table, wanted.get("pairs", []), path)
    return {}
