"""Pictures of tables: PNG files for whatever a table holds, without a display and without mathematics in labels."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from lut.entry import Entry
from lut.formats import CsvProfile, from_csv
from lut.plots import PLOTS, label, part
from lut.profile import DeviceProfile
from lut.signature import OpSignature
from lut.table import LatencyTable

HARDWARE = r"$\frac{1}{0}$ {x} $ <b>"
CONV = OpSignature(kind="conv", height=8, width=8, kernel=(3, 3), stride=(2, 2), padding=(1, 1), activation="relu")
ADD = OpSignature(kind="add", height=8, width=8)
PAIRS = [{"predicted_ms": 1.0, "measured_ms": 1.1}, {"predicted_ms": 3.0, "measured_ms": 2.9}]


def measured() -> LatencyTable:
    profile = DeviceProfile(hardware=HARDWARE, runtime="r", runtime_version="1", threads=1, batch=1)

    def entry(us: float) -> Entry:
        return Entry(p50_us=us, p90_us=us, num_samples=1)

    grid = {(i, o): entry(i * o) for i in (8, 16, 32) for o in (8, 32)}
    return LatencyTable(profile=profile, entries={CONV: grid, ADD: {(c, c): entry(c) for c in (8, 16)}}, step=8)


def coarse() -> LatencyTable:
    header = "batch,cin,cout,fmap_in,kernel,stride,groups,latency_us\n"
    return from_csv(header + "1,3,8,32,3,1,1,5\n1,3,64,32,3,1,1,9\n", CsvProfile(hardware=HARDWARE))


@pytest.mark.parametrize("name", PLOTS)
@pytest.mark.parametrize("table", [measured(), coarse()], ids=["measured", "coarse"])
def test_every_picture_is_a_png(name: str, table: LatencyTable, tmp_path: Path) -> None:
    for pairs in (PAIRS, []):
        PLOTS[name](table, pairs, tmp_path / "plot")
        with Image.open(tmp_path / "plot") as image:
            image.load()
            assert image.format == "PNG" and min(image.size) > 30


def test_a_picture_of_equal_things_is_equal(tmp_path: Path) -> None:
    for name in ("a", "b"):
        PLOTS["staircases"](measured(), [], tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_label_says_what_an_operator_is() -> None:
    assert label(CONV) == "conv 3x3/2 8x8 relu"
    assert label(ADD) == "add 8x8"


def test_a_report_shows_the_dearest_of_its_own_operators_that_have_a_surface() -> None:
    table = measured()
    cheap = replace(CONV, activation="")
    both = replace(
        table, entries={**table.entries, cheap: {p: replace(e, p50_us=1.0) for p, e in table.entries[CONV].items()}}
    )
    assert list(part(both, [cheap, CONV, ADD], 8).entries) == [CONV, cheap], "a sum has no surface"
    assert list(part(both, [cheap, CONV, ADD], 1).entries) == [CONV]
    assert list(part(both, [cheap, replace(CONV, height=9)], 8).entries) == [cheap]
