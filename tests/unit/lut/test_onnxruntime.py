"""Tables and whole networks measured with the real runtime, at tiny sizes."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from lut.measure.networks import measure_models
from lut.measure.onnx_ops import bare_model
from lut.measure.runtime import runtime
from lut.measure.tables import measure_points, measure_step, measure_table
from lut.request import GridRequest
from lut.signature import KINDS, OpSignature
from lut.table import LatencyTable

PROFILE = runtime("onnxruntime").profile(threads=1, batch=1)
CONV = OpSignature(kind="conv", height=4, width=4, kernel=(3, 3), padding=(1, 1), activation="relu")
COUNTS = (4, 8, 16, 32)


def stepped() -> LatencyTable:
    """An empty table whose stair is known, so that no test looks for it."""
    return LatencyTable(profile=PROFILE, entries={}, step=16)


def request_of(kind: str) -> GridRequest:
    signature = OpSignature(kind=kind, height=4, width=4, activation="relu" if kind == "activation" else "")
    if kind in ("conv", "linear", "gather"):
        return GridRequest(signature=signature, c_ins=(8, 16), c_outs=(8, 16))
    return GridRequest(signature=signature, c_ins=(8, 16), c_outs=(8, 16), paired=True)


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    requests = [GridRequest(signature=CONV, c_ins=COUNTS, c_outs=COUNTS, count=3), *map(request_of, KINDS)]
    return measure_table(PROFILE, requests, stepped())


def test_the_local_profile_names_this_machine_and_runtime() -> None:
    assert PROFILE.runtime == "onnxruntime"
    assert "cores" in PROFILE.hardware
    assert runtime("onnxruntime").profile(threads=2, batch=1).fingerprint != PROFILE.fingerprint
    with pytest.raises(ValueError, match="at least 1"):
        runtime("onnxruntime").profile(threads=0, batch=1)


def test_a_measured_table_covers_every_kind_of_request(table: LatencyTable) -> None:
    assert table.missing(map(request_of, KINDS)) == []
    assert table.grid_us(CONV, COUNTS, COUNTS).min() > 0
    for points in table.entries.values():
        assert all(0 < e.p50_us <= e.p90_us and e.num_samples >= 5 for e in points.values())
        assert all(len(e.samples_us) >= e.num_samples for e in points.values()), "all samples are kept"
    assert table.seconds > 0


def test_a_grid_is_measured_in_fewer_points_than_it_has() -> None:
    counts = tuple(range(16, 257, 16))
    request = GridRequest(signature=CONV, c_ins=counts, c_outs=(16,))
    progress: list[tuple[int, int]] = []
    measured = measure_table(PROFILE, [request], stepped(), lambda done, total: progress.append((done, total)))
    assert measured.missing([request]) == []
    assert measured.num_entries <= len(counts)
    assert 0 < measured.interpolation < 1
    assert progress[-1] == (measured.num_entries, measured.num_entries)
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)


def test_slow_chunks_are_timed_once_more_and_progress_does_not_go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lut.measure.chunks.CALM", 0.5)  # none is fast enough
    progress: list[tuple[int, int]] = []
    table = measure_table(PROFILE, [request_of("conv")], stepped(), lambda *both: progress.append(both))
    assert progress == sorted(progress) and progress[-1][0] == progress[-1][1] > table.num_entries


def test_known_entries_are_never_measured_again(table: LatencyTable) -> None:
    assert measure_table(PROFILE, [request_of("conv")], table) is table
    wider = GridRequest(signature=CONV, c_ins=(*COUNTS, 48), c_outs=COUNTS)
    grown = measure_table(PROFILE, [wider], table)
    assert grown.missing([wider]) == []
    assert all(grown.entries[CONV][point] is entry for point, entry in table.entries[CONV].items())
    assert grown.step == table.step


def test_a_pattern_the_runtime_cannot_run_has_no_entries() -> None:
    sparse = GridRequest(signature=replace(CONV, pattern="2:4"), c_ins=COUNTS, c_outs=COUNTS)
    empty = stepped()
    assert measure_table(PROFILE, [sparse], empty) is empty


def test_points_can_be_measured_anew(table: LatencyTable) -> None:
    again = measure_points(PROFILE, [(CONV, 8, 8), (CONV, 8, 8), (CONV, 16, 8)])
    assert set(again.entries[CONV]) == {(8, 8), (16, 8)}
    assert table.merge(again).entries[CONV][8, 8] == again.entries[CONV][8, 8]


def test_a_table_of_another_device_is_refused(table: LatencyTable) -> None:
    elsewhere = replace(PROFILE, hardware="a different CPU")
    with pytest.raises(ValueError, match="this machine measures for"):
        measure_table(elsewhere, [])
    with pytest.raises(ValueError, match="another device profile"):
        measure_table(PROFILE, [], replace(table, profile=elsewhere))


def test_the_step_is_a_width_the_runtime_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lut.measure.stair.WIDTHS", tuple(range(9, 27)))
    request = GridRequest(signature=CONV, c_ins=COUNTS, c_outs=COUNTS)
    assert 1 <= measure_step(PROFILE, [request]) <= 8
    assert measure_step(PROFILE, [request_of("add")]) == 1


def test_networks_are_timed_in_turns_and_keep_all_samples(tmp_path: Path) -> None:
    small, large = (bare_model(CONV, 16, channels, 1) for channels in (16, 64))
    onnx.save(large, tmp_path / "large.onnx")
    fractions: list[float] = []
    timings = measure_models(
        [small.SerializeToString(), tmp_path / "large.onnx"],
        PROFILE,
        min_seconds=0.01,
        rounds=4,
        progress=fractions.append,
    )
    assert len(timings) == 2
    assert fractions == [0.25, 0.5, 0.75, 1.0]
    for timing in timings:
        assert timing.num_samples == len(timing.samples_ms) >= 12
        assert 0 < timing.p50_ms <= timing.p90_ms


def network(shape: list[int | str], kind: int = TensorProto.FLOAT) -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )


def test_a_symbolic_batch_becomes_the_profiles() -> None:
    (timing,) = measure_models([network(["batch", 3])], PROFILE, min_seconds=0.001, rounds=1)
    assert timing.num_samples >= 3


@pytest.mark.parametrize(
    "model",
    [b"not a network", network([2, 3]), network([1, "height"]), network([1, 3], TensorProto.INT64)],
)
def test_a_network_that_cannot_be_fed_is_refused(model: bytes) -> None:
    with pytest.raises(ValueError, match=r"ONNX Runtime cannot load|input x"):
        measure_models([model], PROFILE)
