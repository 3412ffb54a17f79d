"""A measurement that was interrupted goes on where it was kept, and ends as if it had not been."""

import math

import pytest

from lut.measure.runtime import runtime
from lut.measure.tables import measure_table
from lut.request import GridRequest
from lut.signature import OpSignature
from lut.table import LatencyTable

PROFILE = runtime("onnxruntime").profile(threads=1, batch=1)
COUNTS = (4, 8, 12, 16, 24, 32, 48, 64)
REQUESTS = [
    GridRequest(
        signature=OpSignature(kind="conv", height=4, width=4, kernel=(k, k), padding=(k // 2, k // 2)),
        c_ins=COUNTS,
        c_outs=COUNTS,
    )
    for k in (1, 3)
]


class Interrupted(Exception):
    """What happens to a worker."""


def test_what_was_kept_is_not_measured_again_and_is_still_refined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lut.measure.bench.CHUNK_SESSIONS", 10)
    monkeypatch.setattr("lut.measure.chunks.CALM", math.inf)  # no chunk is slow enough to be timed once more
    known = LatencyTable(profile=PROFILE, entries={}, step=8)
    kept: list[LatencyTable] = []

    def keep(measured: LatencyTable) -> None:
        kept.append(measured)
        if len(kept) == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        measure_table(PROFILE, REQUESTS, known, keep=keep)
    begun = kept[-1]
    beyond = [one.num_entries - 10 * number for number, one in enumerate(kept, start=1)]
    assert all(0 <= one <= len(REQUESTS) for one in beyond), "beside anchors what was asked for"
    assert all(len(points) > 1 for points in kept[0].entries.values()), "a chunk is of all layers, not of one"
    assert begun.step == 8
    totals: list[int] = []
    table = measure_table(PROFILE, REQUESTS, known, lambda done, total: totals.append(total), begun=begun)
    for signature, points in begun.entries.items():
        assert points.items() <= table.entries[signature].items()
    assert table.missing(REQUESTS) == []
    assert table.num_entries == begun.num_entries + max(totals), "every further point is measured once"
    assert table.seconds > begun.seconds > 0
    assert measure_table(PROFILE, REQUESTS, table) is table
