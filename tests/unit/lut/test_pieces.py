"""Widths of a masked layer tell only of those at which its block-rows are alike."""

from dataclasses import replace

import numpy as np
import pytest

from lut.entry import Entry
from lut.pattern import Pattern
from lut.pieces import cut_of
from lut.profile import DeviceProfile
from lut.request import GridRequest, fan_in_groups
from lut.signature import OpSignature
from lut.table import LatencyTable

CONV = OpSignature(kind="conv", height=14, width=14, kernel=(3, 3), padding=(1, 1))
PROFILE = DeviceProfile(hardware="box", runtime="onnxruntime", runtime_version="1", threads=1, batch=1)
COUNTS = tuple(range(16, 257, 16))


def took_us(signature: OpSignature, c_in: int, c_out: int, step: int = 16) -> float:
    """A device with a fast way for grouped convolutions of whole stairs, and a slow one."""
    length, rows = fan_in_groups(signature, c_in, c_out)
    slow = rows > 1 and (length % step or (c_out // rows) % step)
    return 10 + 0.01 * length * c_out * (2.5 if slow else 1.0)


@pytest.mark.parametrize("pattern", ["32x1@1/2", "32x1@1/4", "64x1@1/2"])
def test_a_table_of_the_ends_of_the_pieces_knows_every_width(pattern: str) -> None:
    signature = replace(CONV, pattern=pattern)
    cut = cut_of(signature, 16)
    assert cut is not None
    points = {
        (COUNTS[i], COUNTS[o])
        for _, rows, columns in cut(COUNTS, COUNTS)
        for i in (rows[0], rows[-1])
        for o in (columns[0], columns[-1])
    }
    entries = {
        point: Entry(p50_us=took_us(signature, *point), p90_us=took_us(signature, *point), num_samples=9)
        for point in points
    }
    table = LatencyTable(profile=PROFILE, entries={signature: entries}, step=16)
    told = table.grid_us(signature, COUNTS, COUNTS)
    truth = [[took_us(signature, i, o) for o in COUNTS] for i in COUNTS]
    assert len(points) <= 20
    assert np.abs(told / truth - 1).max() < 0.05  # 16 and 48 channels: lists are rounded to whole ones
    assert np.median(np.abs(told / truth - 1)) < 0.01


def test_a_width_whose_piece_was_not_measured_counts_as_the_end_of_its_stair() -> None:
    signature = replace(CONV, pattern="32x1@1/2")
    entries = {(i, o): Entry(p50_us=float(i + o), p90_us=1.0, num_samples=9) for i in (32, 256) for o in (64, 256)}
    table = LatencyTable(profile=PROFILE, entries={signature: entries}, step=16)
    assert table.latency_us(signature, 64, 128) == pytest.approx(64 + 128)
    assert table.latency_us(signature, 64, 127) == pytest.approx(64 + 128)
    # Lists of 24: nothing was measured of such, so whole stairs have to do; but they are asked for.
    assert table.latency_us(signature, 48, 128) == pytest.approx(48 + 128)
    assert np.isnan(table.covered_us(signature, [16], [128])).all()
    asked = GridRequest(signature=signature, c_ins=(48,), c_outs=(128,))
    assert table.missing([asked, replace(asked, c_ins=(64,))]) == [asked]


def test_what_is_no_grouped_convolution_is_one_piece() -> None:
    assert cut_of(CONV, 16) is None
    assert cut_of(replace(CONV, pattern="2:4"), 16) is None
    assert not Pattern.parse("2:4").lowerable
