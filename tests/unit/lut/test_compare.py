"""Two tables are compared over the entries both have."""

import pytest

from lut.compare import compare
from lut.entry import Entry
from lut.formats import CsvProfile, from_csv, to_csv
from lut.profile import DeviceProfile
from lut.signature import OpSignature
from lut.table import LatencyTable

PROFILE = DeviceProfile(hardware="a CPU", runtime="onnxruntime", runtime_version="1", threads=1, batch=1)
CONV = OpSignature(kind="conv", height=8, width=8, kernel=(3, 3), padding=(1, 1), activation="relu")


def table(points: dict[tuple[int, int], float]) -> LatencyTable:
    found = {point: Entry(p50_us=us, p90_us=us, num_samples=1) for point, us in points.items()}
    return LatencyTable(profile=PROFILE, entries={CONV: found})


def test_ratios_ranks_and_what_only_one_has() -> None:
    a = table({(1, 1): 1, (2, 2): 2, (3, 3): 3, (9, 9): 9})
    b = table({(1, 1): 2, (2, 2): 4, (3, 3): 9, (7, 7): 1, (8, 8): 1})
    found = compare(a, b)
    assert (found.num_shared, found.only_a, found.only_b) == (3, 1, 2)
    assert found.ratio_median == 2 and found.ratio_p90 == pytest.approx(2.8)
    assert found.rank_correlation == pytest.approx(1)
    opposite = compare(a, table({(1, 1): 3, (2, 2): 2, (3, 3): 1}))
    assert opposite.rank_correlation == pytest.approx(-1)


def test_ties_have_their_mean_rank() -> None:
    a, b = table({(i, i): v for i, v in enumerate((1, 1, 2, 3), 1)}), table({(i, i): i for i in range(1, 5)})
    # Ranks 1.5 1.5 3 4 against 1 2 3 4: covariance 4.5, variances 4.5 and 5.
    assert compare(a, b).rank_correlation == pytest.approx(4.5 / (4.5 * 5) ** 0.5)


def test_without_shared_entries_there_is_nothing_to_say() -> None:
    found = compare(table({(1, 1): 1}), table({(2, 2): 1}))
    assert (found.num_shared, found.ratio_median, found.ratio_p90, found.rank_correlation) == (0, None, None, None)
    assert compare(table({(1, 1): 1, (2, 2): 1}), table({(1, 1): 1, (2, 2): 2})).rank_correlation is None


def test_a_coarse_table_is_compared_by_its_own_key() -> None:
    coarse = from_csv(
        "batch,cin,cout,fmap_in,kernel,stride,groups,latency_us\n1,8,8,8,3,1,1,10\n", CsvProfile(hardware="x")
    )
    found = compare(coarse, table({(8, 8): 5}))
    assert found.num_shared == 1 and found.ratio_median == 0.5
    assert to_csv(coarse).count("\n") == 2
