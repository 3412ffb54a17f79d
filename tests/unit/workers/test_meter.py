"""A target elsewhere is measured through questions, and its answers become tables and latencies, or end the job."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from lut.measure.runtime import Program, runtime
from lut.measure.timing import Timing
from lut.profile import DeviceProfile
from lut.request import GridRequest
from lut.signature import OpSignature
from lut.table import Entry, LatencyTable
from pruning.export import to_onnx
from secateur.agent_schemas import Measurement
from tests.builders import network
from workers.agent.tasks import measure
from workers.context import StepContext, StepProblem
from workers.steps.meter import Elsewhere, Here, meter

PROFILE = DeviceProfile(hardware="Jetson", runtime="onnxruntime", runtime_version="1", threads=1, batch=1)
CONV = OpSignature(kind="conv", height=8, width=8)
POOL = OpSignature(kind="max_pool", height=8, width=8, kernel=(2, 2), stride=(2, 2))
REQUESTS = [
    GridRequest(signature=CONV, c_ins=(3,), c_outs=(8, 16)),
    GridRequest(signature=POOL, c_ins=(8,), c_outs=(8,), paired=True),
]
TIMING = Timing(
    p50_ms=1.0, p90_ms=1.5, num_samples=2, samples_ms=(1.0, 1.5), num_disturbed=0, busy=False, noise=0.0
)  # fmt: skip


def entry(us: float) -> Entry:
    return Entry(p50_us=us, p90_us=us, num_samples=9, samples_us=(us, us))


def table(**entries: dict[tuple[int, int], Entry]) -> LatencyTable:
    named = {"conv": CONV, "pool": POOL}
    return LatencyTable(profile=PROFILE, entries={named[name]: points for name, points in entries.items()}, step=8)


def context(folder: Path, answer: Mapping[str, Any], asked: list[Mapping[str, Any]]) -> StepContext:
    def ask(question: Mapping[str, Any]) -> dict[str, Any]:
        asked.append(question)
        return dict(answer)

    return StepContext(
        workdir=folder, cache=folder, spec={}, seed=0, attempt=1, emit=lambda event: None, ask=ask
    )  # fmt: skip


def test_an_agent_is_told_of_the_whole_network_and_of_what_is_known_of_it(tmp_path: Path) -> None:
    known = replace(table(conv={(3, 8): entry(5), (3, 16): entry(9)}), seconds=3.0)
    fresh = replace(table(pool={(8, 8): entry(2)}), seconds=1.0)
    asked: list[Mapping[str, Any]] = []
    found = meter(context(tmp_path, {"table": fresh.to_json()}, asked), PROFILE, "jetson").table(REQUESTS, known)
    (question,) = asked
    assert (question["kind"], question["device"], question["profile"]) == ("table", "jetson", asdict(PROFILE))
    assert [one["signature"]["kind"] for one in question["payload"]["requests"]] == ["conv", "max_pool"]
    told = LatencyTable.from_json(question["payload"]["known"])
    assert told.entries == {
        signature: {point: replace(one, samples_us=()) for point, one in points.items()}
        for signature, points in known.entries.items()
    }
    assert found.entries == {**known.entries, **fresh.entries} and found.seconds == 4.0
    assert meter(context(tmp_path, {}, asked), PROFILE, "jetson").table(REQUESTS, found) is found and len(asked) == 1


@pytest.mark.parametrize("answer", [table().to_json(), {**table().to_json(), "noise": -1}, {"schema_version": 9}])
def test_an_answer_that_is_no_table_or_lacks_entries_ends_the_job(tmp_path: Path, answer: dict[str, Any]) -> None:
    with pytest.raises(StepProblem) as raised:
        meter(context(tmp_path, {"table": answer}, []), PROFILE, "jetson").table(REQUESTS, table())
    assert raised.value.code == "measurement_failed"


def test_networks_are_named_by_files_of_the_step(tmp_path: Path) -> None:
    inside, outside = tmp_path / "step" / "dense.onnx", tmp_path / "cached.onnx"
    inside.parent.mkdir()
    inside.write_bytes(b"a")
    outside.write_bytes(b"b")
    asked: list[Mapping[str, Any]] = []
    here = context(inside.parent, {"networks": [asdict(TIMING)] * 2}, asked)
    found = meter(here, PROFILE, "jetson").networks([Program(onnx=inside), Program(onnx=outside)], share=2.0)
    assert found == [TIMING, TIMING]
    assert asked[0]["payload"] == {"min_seconds": 2.0, "min_runs": 6}
    assert [(inside.parent / name).read_bytes() for name in asked[0]["networks"]] == [b"a", b"b"]


def test_without_agents_this_machine_measures(tmp_path: Path) -> None:
    assert meter(context(tmp_path, {}, []), PROFILE, "") == Here(profile=PROFILE, seconds=1.0)


def agent(folder: Path, kept: list[dict[str, Any]], told: list[float]) -> StepContext:
    """A step whose questions an agent's code answers, without the service between them."""

    def ask(question: Mapping[str, Any]) -> dict[str, Any]:
        files = {str(number).zfill(64): folder / name for number, name in enumerate(question["networks"])}
        task = Measurement.model_validate(
            {
                "id": "msr", "kind": question["kind"], "profile": question["profile"], "payload": question["payload"],
                "files": list(files), "begun": None, "lease_s": 9,
            }
        )  # fmt: skip
        return measure(task, files, lambda fraction, left: told.append(fraction), kept.append)

    return StepContext(
        workdir=folder, cache=folder, spec={}, seed=0, attempt=1, emit=lambda event: None, ask=ask
    )  # fmt: skip


def test_an_agent_measures_what_a_meter_asks(tmp_path: Path) -> None:
    profile = runtime("onnxruntime").profile(threads=1, batch=1)
    kept: list[dict[str, Any]] = []
    told: list[float] = []
    known = LatencyTable(profile=profile, entries={CONV: {(3, 8): entry(5)}}, step=8)
    found = meter(agent(tmp_path, kept, told), profile, "jetson").table(REQUESTS, known)
    assert not found.missing(REQUESTS) and found.entries[CONV][3, 8] == entry(5)
    assert told[-1] == 1 and LatencyTable.from_json(kept[-1]).num_entries == found.num_entries - 1


def test_networks_are_run_as_often_as_their_share_wants(tmp_path: Path) -> None:
    profile = runtime("onnxruntime").profile(threads=1, batch=1)
    path = tmp_path / "network.onnx"
    to_onnx(network("Chain"), path, batch=1)
    elsewhere = Elsewhere(context=agent(tmp_path, [], []), profile=profile, device="jetson", seconds=1e-6)
    for one in (Here(profile=profile, seconds=1e-6), elsewhere):
        (timing,) = one.networks([Program(onnx=path)], share=20.0)
        assert timing.num_samples >= 600, "60 in each of ten rounds; otherwise three"
