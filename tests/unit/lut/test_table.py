"""The table gives back what was measured, interpolates in the open, and misses rather than guesses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lut.calibrate import Calibration
from lut.profile import DeviceProfile
from lut.request import GridRequest
from lut.signature import OpSignature
from lut.table import Entry, LatencyTable, LutMiss

PROFILE = DeviceProfile(hardware="a CPU", runtime="onnxruntime", runtime_version="1.0", threads=1, batch=1)
CONV = OpSignature(kind="conv", height=8, width=8, kernel=(3, 3), padding=(1, 1), activation="relu")
ADD = OpSignature(kind="add", height=8, width=8)


def entry(p50_us: float, num_samples: int = 20) -> Entry:
    return Entry(p50_us=p50_us, p90_us=p50_us * 1.1, num_samples=num_samples)


def table(points: dict[tuple[int, int], float], signature: OpSignature = CONV, **fields: Any) -> LatencyTable:
    entries = {signature: {point: entry(value) for point, value in points.items()}}
    return LatencyTable(profile=PROFILE, entries=entries, **fields)


SQUARE = {(16, 16): 10.0, (16, 32): 20.0, (32, 16): 30.0, (32, 32): 60.0}


def test_a_measured_point_is_given_back() -> None:
    assert table(SQUARE).latency_us(CONV, 32, 16) == 30.0


def test_the_middle_of_four_points_is_their_mean() -> None:
    assert table(SQUARE).latency_us(CONV, 24, 24) == pytest.approx(30.0)


@given(
    slopes=st.tuples(*[st.floats(0.01, 3.0)] * 3),
    c_ins=st.lists(st.integers(1, 300), min_size=1, max_size=5, unique=True),
    c_outs=st.lists(st.integers(1, 300), min_size=1, max_size=5, unique=True),
    data=st.data(),
)
def test_interpolation_is_exact_on_a_plane(
    slopes: tuple[float, float, float], c_ins: list[int], c_outs: list[int], data: st.DataObject
) -> None:
    def plane(c_in: int, c_out: int) -> float:
        return slopes[0] * c_in + slopes[1] * c_out + slopes[2]

    measured = table({(i, o): plane(i, o) for i in c_ins for o in c_outs})
    c_in = data.draw(st.integers(min(c_ins), max(c_ins)))
    c_out = data.draw(st.integers(min(c_outs), max(c_outs)))
    assert measured.latency_us(CONV, c_in, c_out) == pytest.approx(plane(c_in, c_out))


@given(channels=st.lists(st.integers(1, 200), min_size=2, max_size=6, unique=True), data=st.data())
def test_a_diagonal_is_interpolated_along_itself(channels: list[int], data: st.DataObject) -> None:
    measured = table({(c, c): 2.0 * c for c in channels}, ADD)
    c = data.draw(st.integers(min(channels), max(channels)))
    assert measured.latency_us(ADD, c, c) == pytest.approx(2.0 * c)
    assert measured.diagonal_us(ADD, [c, c]).shape == (2,)


def test_the_grid_holds_the_single_lookups() -> None:
    grid = table(SQUARE).grid_us(CONV, [16, 20, 32], [16, 31])
    single = [[table(SQUARE).latency_us(CONV, i, o) for o in (16, 31)] for i in (16, 20, 32)]
    np.testing.assert_allclose(grid, single)


@pytest.mark.parametrize(("c_in", "c_out"), [(8, 16), (16, 40), (40, 40)])
def test_outside_the_measured_hull_is_a_miss_that_carries_its_key(c_in: int, c_out: int) -> None:
    with pytest.raises(LutMiss) as caught:
        table(SQUARE).latency_us(CONV, c_in, c_out)
    assert (caught.value.signature, caught.value.c_in, caught.value.c_out) == (CONV, c_in, c_out)


def test_an_unknown_signature_is_a_miss() -> None:
    with pytest.raises(LutMiss, match="no latency for add 16 -> 16"):
        table(SQUARE).latency_us(ADD, 16, 16)


def test_off_the_diagonal_a_paired_operator_misses() -> None:
    with pytest.raises(LutMiss):
        table({(16, 16): 1.0, (32, 32): 2.0}, ADD).latency_us(ADD, 20, 24)


def test_a_width_on_a_stair_costs_what_the_end_of_the_stair_costs() -> None:
    stairs = table(SQUARE | {(16, 8): 6.0}, step=16)
    assert stairs.latency_us(CONV, 16, 20) == 20.0
    assert stairs.latency_us(CONV, 20, 32) == 60.0
    # Below the first stair nothing is rounded, and a count with measurements of its own is taken at its word.
    assert stairs.latency_us(CONV, 16, 12) == pytest.approx(8.0)
    assert stairs.latency_us(CONV, 16, 8) == 6.0


def test_a_stair_that_ends_beyond_the_hull_is_interpolated() -> None:
    measured = table({(16, 16): 10.0, (16, 24): 18.0}, step=16)
    assert measured.latency_us(CONV, 16, 20) == pytest.approx(14.0)


def test_missing_names_only_what_is_not_covered() -> None:
    inside = GridRequest(signature=CONV, c_ins=(16, 24), c_outs=(32,))
    outside = GridRequest(signature=CONV, c_ins=(16, 48), c_outs=(32,))
    other = GridRequest(signature=ADD, c_ins=(16,), c_outs=(16,), paired=True)
    assert table(SQUARE).missing([inside, outside, other]) == [outside, other]


def test_a_merge_keeps_both_and_prefers_the_newer() -> None:
    old = table({(16, 16): 10.0, (16, 32): 20.0}, step=16, scale=1.1, operator_offset_us=3.0, seconds=2.0)
    new = table({(16, 32): 25.0, (16, 48): 30.0}, seconds=1.0)
    merged = old.merge(new)
    assert {point: e.p50_us for point, e in merged.entries[CONV].items()} == {(16, 16): 10, (16, 32): 25, (16, 48): 30}
    assert (merged.step, merged.scale, merged.operator_offset_us, merged.seconds) == (16, 1.1, 3.0, 3.0)
    assert old.entries[CONV][16, 32].p50_us == 20.0


def test_tables_of_two_devices_do_not_merge() -> None:
    other = replace(table(SQUARE), profile=replace(PROFILE, threads=2))
    with pytest.raises(ValueError, match="different device profiles"):
        table(SQUARE).merge(other)


def test_a_prediction_is_the_scaled_sum_and_an_offset_for_each_operator() -> None:
    calibrated = table(SQUARE).calibrated(Calibration(scale=1.5, offset_us=7.0))
    assert calibrated.predict_us([(CONV, 16, 16), (CONV, 32, 32)]) == pytest.approx(2 * 7.0 + 1.5 * 70.0)
    faster = table(SQUARE).calibrated(Calibration(scale=1.5, offset_us=-9.0))
    told = [faster.latency_us(CONV, *point) for point in SQUARE]
    assert told == pytest.approx([max(1.5 * us - 9.0, 0.75 * us) for us in SQUARE.values()]), "half of it at least"


def test_the_offset_of_a_network_in_an_older_file_is_left_out() -> None:
    calibrated = table(SQUARE).calibrated(Calibration(scale=1.5, offset_us=7.0))
    assert LatencyTable.from_json(calibrated.to_json()) == calibrated
    older = {name: value for name, value in calibrated.to_json().items() if name != "operator_offset_us"}
    assert LatencyTable.from_json({**older, "offset_us": -700.0}) == replace(calibrated, operator_offset_us=0.0)


def test_calibrating_twice_composes() -> None:
    first, second = Calibration(scale=1.5, offset_us=7.0), Calibration(scale=2.0, offset_us=-3.0)
    operators = [(CONV, 16, 16), (CONV, 32, 16)]
    once = table(SQUARE).calibrated(first)
    assert once.calibrated(second).predict_us(operators) == pytest.approx(second.apply(once.predict_us(operators), 2))


def test_candidate_widths_are_stair_ends_and_the_dense_width() -> None:
    stairs = table(SQUARE, step=16)
    assert stairs.candidate_widths(72) == (16, 32, 48, 64, 72)
    assert stairs.candidate_widths(16) == (4, 8, 16)
    assert stairs.candidate_widths(1) == (1,)


@given(dense=st.integers(1, 3000), step=st.integers(1, 64), limit=st.integers(2, 40))
def test_candidate_widths_are_few_ascending_and_end_dense(dense: int, step: int, limit: int) -> None:
    widths = table(SQUARE, step=step).candidate_widths(dense, limit)
    assert list(widths) == sorted(set(widths))
    assert widths[0] >= 1
    assert widths[-1] == dense
    assert len(widths) <= limit + 4


@st.composite
def tables(draw: st.DrawFn) -> LatencyTable:
    micros = st.floats(0.001, 1e6)
    samples = st.lists(st.floats(-10, 1e6), max_size=3).map(tuple)
    made = st.builds(Entry, p50_us=micros, p90_us=micros, num_samples=st.integers(1, 1000), samples_us=samples)
    points = st.dictionaries(st.tuples(st.integers(1, 4096), st.integers(1, 4096)), made, min_size=1, max_size=4)
    entries = draw(st.dictionaries(st.sampled_from([CONV, ADD, replace(CONV, residual=True)]), points))
    return LatencyTable(profile=PROFILE, entries=entries, step=draw(st.integers(1, 64)), scale=draw(micros))


@given(tables())
def test_json_gives_the_table_back(original: LatencyTable) -> None:
    assert LatencyTable.from_json(json.loads(json.dumps(original.to_json()))) == original


def test_a_saved_table_loads_and_leaves_nothing_else_behind(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    table(SQUARE, step=16).save(path)
    assert LatencyTable.load(path) == table(SQUARE, step=16)
    assert [p.name for p in tmp_path.iterdir()] == ["table.json"]


def test_a_file_that_is_not_json_is_refused(tmp_path: Path) -> None:
    for content in (b"\x80\x04pickle", b"{", b"[" * 100_000):
        (tmp_path / "table.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"table\.json is not JSON"):
            LatencyTable.load(tmp_path / "table.json")


def broken(**changes: object) -> dict[str, Any]:
    return table(SQUARE).to_json() | changes


SIGNATURE = CONV.to_json()


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "table",
        {},
        broken(schema_version=99),
        broken(step=0),
        broken(step=True),
        broken(scale=float("nan")),
        broken(scale=-1.0),
        broken(noise=-0.1),
        broken(operator_offset_us="3"),
        broken(profile=None),
        broken(profile={"hardware": "x"}),
        broken(profile={**table(SQUARE).to_json()["profile"], "threads": "many"}),
        broken(profile={**table(SQUARE).to_json()["profile"], "surprise": 1}),
        broken(entries={}),
        broken(entries=[1]),
        broken(entries=[{"signature": SIGNATURE}]),
        broken(entries=[{"signature": {**SIGNATURE, "kind": "evil"}, "points": []}]),
        broken(entries=[{"signature": {**SIGNATURE, "kernel": [3]}, "points": []}]),
        broken(entries=[{"signature": {**SIGNATURE, "kernel": 3}, "points": []}]),
        broken(entries=[{"signature": {**SIGNATURE, "height": "8"}, "points": []}]),
        broken(entries=[{"signature": {**SIGNATURE, "kernel": [[3], 3]}, "points": []}]),
        broken(entries=[{"signature": {**SIGNATURE, "kind": ["conv"]}, "points": []}]),
        broken(entries=[{"signature": {**SIGNATURE, "extra": 3}, "points": []}]),
        broken(entries=[{"signature": SIGNATURE, "points": [[1, 2, 3.0]]}]),
        broken(entries=[{"signature": SIGNATURE, "points": [[1, 2, float("inf"), 1.0, 5]]}]),
        broken(entries=[{"signature": SIGNATURE, "points": [[1, 2, 0.0, 1.0, 5]]}]),
        broken(entries=[{"signature": SIGNATURE, "points": [[1.5, 2, 1.0, 1.0, 5]]}]),
        broken(entries=[{"signature": SIGNATURE, "points": [[1, -2, 1.0, 1.0, 5]]}]),
        broken(entries=[{"signature": SIGNATURE, "points": [[1, 2, 1.0, 1.0, 5, 7.0]]}]),
        broken(entries=[{"signature": SIGNATURE, "points": [[1, 2, 1.0, 1.0, 5, ["x"]]]}]),
        broken(entries=[{"signature": SIGNATURE, "points": [[1, 2, 1.0, 1.0, 5, [1.0] * 5000]]}]),
        broken(entries=[{"signature": SIGNATURE, "points": 7}]),
    ],
)
def test_hostile_json_is_a_value_error_with_a_sentence(data: object) -> None:
    with pytest.raises(ValueError, match=r"\w+ \w+ \w+"):
        LatencyTable.from_json(data)


def test_fingerprints_differ_whenever_a_field_differs() -> None:
    others = [replace(PROFILE, threads=2), replace(PROFILE, batch=8), replace(PROFILE, runtime_version="1.1")]
    assert len({p.fingerprint for p in [PROFILE, *others]}) == 4
