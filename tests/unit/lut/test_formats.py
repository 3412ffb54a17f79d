"""Tables as CSV: both dialects come back, and what is wrong with a file is said with its line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lut.entry import Entry
from lut.formats import CsvProfile, from_csv, to_csv
from lut.profile import DeviceProfile
from lut.request import GridRequest
from lut.signature import OpSignature
from lut.table import LatencyTable, LutMiss, UnknownSchema

ABOUT = CsvProfile(hardware="a GPU")
HEADER = "batch,cin,cout,fmap_in,kernel,stride,groups,latency_us,note\n"
ROWS = HEADER + "".join(
    f"4,{i},{o},14,3,1,1,{i + o},x\n" for i in (32, 64, 128) for o in (32, 64, 128) if (i, o) != (32, 32)
)
CONV = OpSignature(kind="conv", height=14, width=14, kernel=(3, 3), padding=(1, 1), activation="relu", residual=True)
PROFILE = DeviceProfile(hardware="a CPU", runtime="onnxruntime", runtime_version="1", threads=1, batch=4)

signatures = st.builds(
    OpSignature,
    kind=st.sampled_from(["conv", "add", "max_pool"]),
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    kernel=st.tuples(st.integers(1, 11), st.integers(1, 11)),
    padding=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    groups=st.integers(1, 4),
    bias=st.booleans(),
    activation=st.sampled_from(["", "relu", "hardswish"]),
)
entries = st.dictionaries(
    signatures,
    st.dictionaries(
        st.tuples(st.integers(1, 4096), st.integers(1, 4096)),
        st.builds(Entry, p50_us=st.floats(1e-6, 1e9), p90_us=st.floats(1e-6, 1e9), num_samples=st.integers(1, 10_000)),
        min_size=1,
        max_size=4,
    ),
    min_size=1,
    max_size=4,
)


@given(entries)
def test_a_measured_table_comes_back_from_csv_entry_by_entry(
    found: dict[OpSignature, dict[tuple[int, int], Entry]],
) -> None:
    table = LatencyTable(profile=PROFILE, entries=found)
    again = from_csv(to_csv(table), CsvProfile(hardware="a CPU", runtime="onnxruntime", runtime_version="1"))
    assert again.entries == table.entries and again.profile == PROFILE and not again.coarse


def test_a_published_table_comes_back_from_csv_and_from_json_and_stays_coarse(tmp_path: Path) -> None:
    table = from_csv(ROWS, ABOUT)
    assert table.coarse and table.profile.batch == 4 and table.num_entries == 8
    assert table.step == 32, "the step at which output channels were measured"
    assert from_csv(to_csv(table), ABOUT) == table
    table.save(tmp_path / "t.json")
    assert LatencyTable.load(tmp_path / "t.json") == table


def test_a_coarse_table_answers_for_every_padding_activation_and_sum_of_its_key() -> None:
    table = from_csv(ROWS, ABOUT)
    for signature in (CONV, replace(CONV, padding=(0, 0), bias=False, activation="", residual=False)):
        assert table.latency_us(signature, 64, 128) == 192
    for other in (replace(CONV, stride=(2, 2)), replace(CONV, height=7), replace(CONV, dilation=(2, 2))):
        with pytest.raises(LutMiss):
            table.latency_us(other, 64, 128)


def test_a_coarse_table_prices_convolutions_alone() -> None:
    table = from_csv(ROWS, ABOUT)
    add, linear = (OpSignature(kind=kind, height=1, width=1) for kind in ("add", "linear"))
    assert table.predict_us([(add, 8, 8), (linear, 2048, 1000), (CONV, 128, 128)]) == 256


def test_counts_a_coarse_table_lacks_cost_what_the_next_larger_did_and_never_less() -> None:
    table = from_csv(ROWS, ABOUT)
    assert table.latency_us(CONV, 128, 16) == 160
    assert table.latency_us(CONV, 32, 32) == 96, "the hole counts as the cheapest point around it"
    request = GridRequest(signature=CONV, c_ins=(3, 100), c_outs=(1, 128))
    assert table.missing([request]) == []
    with pytest.raises(LutMiss):
        table.latency_us(CONV, 129, 16)
    assert table.missing([replace(request, c_ins=(129,))])


def test_a_coarse_table_gives_no_credit_for_a_pattern() -> None:
    with pytest.raises(LutMiss):
        from_csv(ROWS, ABOUT).latency_us(replace(CONV, pattern="64x1@1/4"), 64, 64)


def test_a_row_with_as_many_groups_as_channels_is_depthwise() -> None:
    table = from_csv(HEADER + "1,96,96,56,3,2,96,7,\n1,32,32,56,3,2,32,5,\n1,96,96,56,3,1,1,70,\n", ABOUT)
    depthwise = OpSignature(kind="depthwise", height=56, width=56, kernel=(3, 3), stride=(2, 2), padding=(1, 1))
    assert table.latency_us(depthwise, 96, 96) == 7
    assert table.latency_us(depthwise, 30, 30) == 5


def test_one_batch_of_several_is_read_when_it_is_named() -> None:
    both = HEADER + "1,8,8,14,3,1,1,5,\n2,8,8,14,3,1,1,9,\n"
    assert from_csv(both, replace(ABOUT, batch=2)).latency_us(CONV, 8, 8) == 9
    with pytest.raises(ValueError, match="say which batch"):
        from_csv(both, ABOUT)
    with pytest.raises(ValueError, match="no rows of batch 3; it has 1, 2"):
        from_csv(both, replace(ABOUT, batch=3))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "the header must name"),
        ("a,b\n1,2\n", "the header must name"),
        (HEADER.replace("note", "cin"), "a column twice"),
        (HEADER, "say which batch"),
        (HEADER + "1,8,8,14,3,1,1,nan,\n", "line 2: latency_us must be a number"),
        (HEADER + "1,8,8,14,3,1,1,-5,\n", "line 2: latency_us"),
        (HEADER + "1,8,8,14,3,1,1,0,\n", "line 2: latency_us"),
        (HEADER + "1,8,8,14,3,1,1,1e400,\n", "line 2: latency_us"),
        (HEADER + "1,8,8,14,3,1,1,=1+1,\n", "line 2: latency_us"),
        (HEADER + '1,8,8,14,3,1,1,"=HYPERLINK(""http://x"")",\n', "line 2: latency_us"),
        (HEADER + "1,8,8,14,3,1,1,5\x00,\n", "line 2"),
        (HEADER + "1,8,\u0668,14,3,1,1,5,\n", "line 2: cout"),
        (HEADER + "1,8,8_0,14,3,1,1,5,\n", "line 2: cout"),
        (HEADER + "1,99999999999999999999,8,14,3,1,1,5,\n", "line 2: cin"),
        (HEADER + "1,8,8,14,3,1,3,5,\n", "line 2: 3 groups do not divide"),
        (HEADER + "1,8,8,14,3,1,1,5,\n1,8,8,14,3,1,1,6,\n", "line 3: conv 8 -> 8 is there twice"),
        (HEADER + "1,8,8,14,3,1,1,5,,,\n", "line 2: more cells than columns"),
        (HEADER + "1,8,8,14\n", "line 2"),
        (HEADER + '1,8,8,14,3,1,1,5,"open\n', "line 2"),
        (HEADER + "1,8,8,14,3,1,1,5," + "x" * 200_000 + "\n", "line 2"),
    ],
)
def test_a_broken_csv_says_where_and_why(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        from_csv(text, ABOUT)


def _json(**change: object) -> dict[str, object]:
    return LatencyTable(
        profile=PROFILE, entries={CONV: {(8, 8): Entry(p50_us=1, p90_us=1, num_samples=1)}}
    ).to_json() | {
        "seconds": 1.0,
        **change,
    }


def _points(*points: list[object]) -> dict[str, object]:
    return _json(entries=[{"signature": CONV.to_json(), "points": list(points)}])


HUGE = 10**4000
BROKEN: list[dict[str, object]] = [
    _points([8, 8, float("nan"), 1, 1]),
    _points([8, 8, float("inf"), 1, 1]),
    _points([8, 8, -1, 1, 1]),
    _points([8, 8, HUGE, 1, 1]),
    _points([HUGE, 8, 1, 1, 1]),
    _points([8, 8, True, 1, 1]),
    _points([8, 8, 1, 1]),
    _points([8, 8, 1, 1, 1], [8, 8, 2, 2, 1]),
    _json(entries=[{"signature": {**CONV.to_json(), "activation": "$\\frac{1}{2}$"}, "points": []}]),
    _json(entries=[{"signature": {**CONV.to_json(), "pattern": "64x1@1/0"}, "points": []}]),
    _json(entries=[{"signature": {**CONV.to_json(), "kernel": "33"}, "points": []}]),
    _json(entries=[{"signature": {**CONV.to_json(), "height": HUGE}, "points": []}]),
    _json(entries={"a": 1}),
    _json(step=0),
    _json(profile={"hardware": "x"}),
    _json(profile={**PROFILE.__dict__, "hardware": "nul \x00"}),
    _json(profile={**PROFILE.__dict__, "hardware": "x" * 201}),
    _json(profile={**PROFILE.__dict__, "threads": 0}),
]


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_broken_json_is_a_sentence_and_not_a_crash(number: int) -> None:
    with pytest.raises(ValueError):
        LatencyTable.from_json(BROKEN[number])


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"a":' * 100_000, "not json", '{"schema_version": 1' + "0" * 5000 + "}"]
)
def test_bombs_are_no_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "bomb.json").write_text(text)
    with pytest.raises(ValueError):
        LatencyTable.load(tmp_path / "bomb.json")


def test_another_schema_is_told_apart_from_a_broken_file(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(_json(schema_version=2)))
    with pytest.raises(UnknownSchema, match="this version reads 1"):
        LatencyTable.load(tmp_path / "t.json")
