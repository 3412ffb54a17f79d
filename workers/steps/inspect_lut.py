"""Check an uploaded latency table, JSON or CSV, and put it into our JSON; merge it into the table that is there."""

from typing import Any

from lut.formats import CsvProfile, from_csv
from lut.table import LatencyTable, UnknownSchema
from workers.context import StepContext, StepProblem

MOST_ROWS = 300
"""Input channel counts of one operator: the time to interpolate between rows grows with their cube."""


def run(context: StepContext) -> dict[str, Any]:
    """Return `fingerprint`, `coarse` and the figures of the table; leave `table.json`. Entries of the upload win."""
    given = context.spec["lut"]
    table = read(context, given)
    if not table.entries:
        raise StepProblem("broken_table", "The table has no entries.")
    if any(len({c_in for c_in, _ in points}) > MOST_ROWS for points in table.entries.values()):
        raise StepProblem("broken_table", f"One operator is measured at {MOST_ROWS} numbers of input channels at most.")
    stored = context.path("known_table.json")
    if stored.exists():
        try:
            table = LatencyTable.load(stored).merge(table)
        except ValueError as error:
            raise StepProblem("table_mismatch", f"The table there is cannot take these entries: {error}") from error
    table.save(context.path("table.json"))
    return {"fingerprint": table.profile.fingerprint, "coarse": table.coarse, **table.figures()}


def read(context: StepContext, given: dict[str, Any]) -> LatencyTable:
    """Return the uploaded table. Raises StepProblem: `unsupported_schema` or `broken_table`, with a sentence."""
    path = context.path("upload")
    try:
        if given["format"] == "json":
            return LatencyTable.load(path)
        about = {key: value for key, value in given["profile"].items() if value is not None}
        return from_csv(path.read_text(encoding="utf-8-sig"), CsvProfile(**about))
    except UnknownSchema as error:
        raise StepProblem("unsupported_schema", str(error)) from error
    except UnicodeDecodeError as error:
        raise StepProblem("broken_table", "The file is not UTF-8 text.") from error
    except ValueError as error:
        detail = str(error).replace("upload is not JSON", "The file is not JSON.")
        raise StepProblem("broken_table", detail[:1000]) from error
