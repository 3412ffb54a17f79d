"""Measures one entry a tick; the build's name says how it behaves."""

import time
from dataclasses import replace
from typing import Any

from lut.entry import Entry
from lut.profile import DeviceProfile
from lut.signature import OpSignature
from lut.table import LatencyTable
from workers.context import StepContext

CONV = OpSignature(kind="conv", height=8, width=8, kernel=(3, 3), padding=(1, 1), activation="relu")


def run(context: StepContext) -> dict[str, Any]:
    """Leave a table of the entries that the model's image size names, and those that are known."""
    size, slow = context.spec["job"]["image_size"], context.spec["job"]["name"] == "slow"
    for tick in range(400 if slow else 4):
        time.sleep(0.05)
        context.progress(tick / 400, seconds_left=20 - tick * 0.05)
    points = {(size, c): Entry(p50_us=float(c), p90_us=float(c), num_samples=1) for c in (8, 16)}
    table = LatencyTable(profile=DeviceProfile(**context.spec["profile"]), entries={CONV: points}, step=8, seconds=1.0)
    known = context.path("known_table.json")
    if known.exists():
        before = LatencyTable.load(known)
        table = before.merge(replace(table, seconds=1.0))
    table.save(context.path("table.json"))
    return {"luts": [{"file": "table.json", **table.figures()}], "summary": {"num_entries": table.num_entries}}
