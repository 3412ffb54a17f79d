"""The client against a real server on loopback."""

import json
import socket
import zipfile
from pathlib import Path
from typing import Any

import pytest

from secateur import (
    ApiError,
    ChecksumMismatch,
    Client,
    ConnectionFailed,
    JobCancelled,
    JobFailed,
    NotFound,
    UnexpectedAnswer,
    UsageError,
    WaitTimeout,
)
from secateur.schemas import ErrorDetail, Failure, JobStatus, Problem, PruneJobCreate
from tests.unit.secateur.fake_service import FakeService

REFUSAL = Problem(
    type="about:blank",
    title="Invalid request",
    status=422,
    code="unknown_class",
    detail="no such class",
    errors=[ErrorDetail(pointer="/classes/0", detail="no class dgo")],
)


def test_model_is_streamed_with_its_length_and_progress(service: FakeService, tmp_path: Path) -> None:
    weights = tmp_path / "net.safetensors"
    weights.write_bytes(bytes(range(256)) * 4000)
    seen: list[tuple[int, int]] = []
    with Client(service.url) as client:
        model = client.upload_model(
            weights,
            arch="cifar/resnet20",
            class_names=["a", "b"],
            on_progress=lambda done, total: seen.append((done, total)),
        )
    (upload,) = service.uploads
    assert upload["content"] == weights.read_bytes()
    assert upload["length"] is not None, "a chunked upload hides its size from limits"
    assert (model.name, model.arch, model.class_names) == ("net", "cifar/resnet20", ["a", "b"])
    assert len(seen) > 3 and seen[-1] == (1_024_000, 1_024_000) and seen == sorted(seen)


def test_fields_that_are_not_strings_travel_as_json(service: FakeService, tmp_path: Path) -> None:
    archive = tmp_path / "pets.zip"
    archive.write_bytes(b"PK")
    with Client(service.url) as client:
        dataset = client.upload_dataset(
            archive, image_size=32, mean=(0.1, 0.2, 0.3), std=[1, 1, 1], class_map={"cat": 3, "dog": 5}
        )
    assert json.loads(service.uploads[0]["mean"]) == [0.1, 0.2, 0.3]
    assert dataset.class_map == {"cat": 3, "dog": 5} and dataset.image_size == 32


def test_folder_is_zipped_on_the_way(service: FakeService, tmp_path: Path) -> None:
    image = tmp_path / "pets" / "train" / "cat" / "1.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"png")
    with Client(service.url) as client:
        assert client.upload_dataset(tmp_path / "pets", image_size=32, mean=[0], std=[1]).name == "pets"
    (tmp_path / "back.zip").write_bytes(service.uploads[0]["content"])
    assert zipfile.ZipFile(tmp_path / "back.zip").namelist() == ["train/cat/1.png"]


def test_problem_becomes_an_exception_with_its_code(service: FakeService, spec: PruneJobCreate) -> None:
    service.refuse = REFUSAL
    with Client(service.url) as client, pytest.raises(ApiError, match="no such class") as caught:
        client.submit(spec)
    assert (caught.value.code, caught.value.status) == ("unknown_class", 422)
    assert caught.value.problem.errors[0].pointer == "/classes/0"


def test_refusal_that_comes_before_the_file_was_read_is_heard(service: FakeService, tmp_path: Path) -> None:
    service.refuse = REFUSAL
    weights = tmp_path / "net.safetensors"
    with weights.open("wb") as file:
        file.truncate(24 << 20)
    with Client(service.url) as client, pytest.raises(ApiError, match="no such class"):
        client.upload_model(weights, arch="cifar/resnet20")


def test_missing_job_is_not_found(service: FakeService) -> None:
    with Client(service.url) as client:
        for ask in (client.job, lambda job_id: list(client.events(job_id))):
            with pytest.raises(NotFound):
                ask("nope")


def test_submit_survives_a_lost_answer_without_starting_two_jobs(service: FakeService, spec: PruneJobCreate) -> None:
    service.lose_answers = 1
    with Client(service.url) as client:
        job = client.submit(spec)
    assert job.id == "job1" and list(service.jobs) == ["job1"]


def test_each_submit_has_its_own_key_unless_given(service: FakeService, spec: PruneJobCreate) -> None:
    with Client(service.url) as client:
        ids = [client.submit(spec).id, client.submit(spec).id]
        ids += [client.submit(spec, idempotency_key="mine").id for _ in range(2)]
    assert ids == ["job1", "job2", "job3", "job3"]


def test_fields_that_contradict_are_refused_before_sending() -> None:
    with Client("http://127.0.0.1:9") as client:
        with pytest.raises(UsageError, match="exactly one of budget_ms and budget_ratio"):
            client.submit(model_id="m", dataset_id="d", classes=["cat"])
        with pytest.raises(UsageError, match=r"budget_ms.*greater than 0"):
            client.submit(model_id="m", dataset_id="d", classes=["cat"], budget_ms=-1)
        with pytest.raises(UsageError, match="wants patterns to be only"):
            client.submit(model_id="m", dataset_id="d", classes=["cat"], budget_ms=1, solver="crisp")
        with pytest.raises(ValueError, match="not both"):
            client.submit(PruneJobCreate(model_id="m", dataset_id="d", classes=[1], budget_ms=1), seed=1)


def test_jobs_are_fetched_page_by_page(service: FakeService, spec: PruneJobCreate) -> None:
    for _ in range(3):
        service.add_job(spec)
    service.add_job(spec, status="failed", outcome=None)
    with Client(service.url) as client:
        assert [job.id for job in client.jobs()] == ["job4", "job3", "job2", "job1"]
        assert [job.id for job in client.jobs(status=JobStatus.FAILED)] == ["job4"]


def test_newer_service_may_say_more(service: FakeService, spec: PruneJobCreate) -> None:
    service.add_job(spec)
    with Client(service.url) as client:
        assert client.job("job1").outcome == "budget_met"


def test_preflight_is_returned(service: FakeService, spec: PruneJobCreate) -> None:
    with Client(service.url) as client:
        preflight = client.validate(spec)
    assert preflight.ok and preflight.blockers[0].layer == "fc" and not service.jobs


def test_events_come_once_and_in_order_over_broken_streams(service: FakeService, spec: PruneJobCreate) -> None:
    service.add_job(spec)
    service.drop_after = [3, 0, 4]
    with Client(service.url) as client:
        events = list(client.events("job1"))
    assert [event.id for event in events] == list(range(100, 110))
    assert service.streams == [0, 102, 102, 106]
    assert events[4].data["text"] == "brackets [bold] and \u2028 and \r\n survive"


def test_a_service_that_says_it_leaves_is_followed_elsewhere(service: FakeService, spec: PruneJobCreate) -> None:
    service.add_job(spec)
    service.close_after = 4
    with Client(service.url) as client:
        assert [event.id for event in client.events("job1")] == list(range(100, 110))
    assert service.streams == [0, 103]


def test_events_begin_where_asked(service: FakeService, spec: PruneJobCreate) -> None:
    service.add_job(spec)
    with Client(service.url) as client:
        assert [event.id for event in client.events("job1", after=107)] == [108, 109]
        assert list(client.events("job1", after=109)) == []


def test_stream_that_stays_open_after_the_end_is_left(service: FakeService, spec: PruneJobCreate) -> None:
    service.add_job(spec)
    service.hold_open_s = 20
    with Client(service.url) as client:
        assert len(list(client.events("job1"))) == 10
    assert service.num_held == 0


def test_failure_in_the_middle_of_a_retried_job_is_not_its_end(service: FakeService, spec: PruneJobCreate) -> None:
    service.add_job(spec)
    service.events[4] = service.events[4].model_copy(update={"kind": "status", "data": {"status": "failed"}})
    with Client(service.url) as client:
        assert len(list(client.events("job1"))) == 10


def test_wait_stops_at_its_time(service: FakeService, spec: PruneJobCreate) -> None:
    service.add_job(spec, status="running", outcome=None)
    service.hold_open_s = 20
    with Client(service.url) as client, pytest.raises(WaitTimeout, match="goes on without us"):
        client.wait("job1", timeout_s=0.4)


def test_wait_gives_up_on_a_server_that_stays_away(spec: PruneJobCreate) -> None:
    with Client(dead_url(), patience_s=0.5) as client, pytest.raises(ConnectionFailed):
        client.wait("job1")


def test_wait_tells_failed_from_cancelled(service: FakeService, spec: PruneJobCreate, failure: Failure) -> None:
    service.add_job(spec, status="failed", outcome=None, failure=failure)
    service.add_job(spec, status="cancelled", outcome=None)
    with Client(service.url) as client:
        with pytest.raises(JobFailed, match="the loss is not a number") as caught:
            client.job("job1").wait()
        assert caught.value.job.failure == failure
        with pytest.raises(JobCancelled):
            client.wait("job2")
        assert client.wait("job2", check=False).status == JobStatus.CANCELLED


def test_handle_knows_its_job(service: FakeService, spec: PruneJobCreate, tmp_path: Path) -> None:
    seen: list[Any] = []
    with Client(service.url) as client:
        job = client.submit(**spec.model_dump()).wait(on_event=seen.append)
        assert (job.status, job.outcome, job.summary["measured_ms"]) == ("succeeded", "budget_met", 1.9)
        assert len(seen) == 10 and job.report()["slim"]["p50_ms"] == 1.9
        assert [path.name for path in job.download(tmp_path, names=["model.onnx"])] == ["model.onnx"]
        assert job.cancel().status == JobStatus.CANCELLED and repr(job) == "Job('job1', cancelled)"


def test_download_writes_whole_files_with_ordinary_modes(
    service: FakeService, spec: PruneJobCreate, tmp_path: Path
) -> None:
    service.add_job(spec)
    with Client(service.url) as client:
        paths = client.download("job1", tmp_path / "new" / "out")
        assert {path.name: path.read_bytes() for path in paths} == service.files
        (tmp_path / "plain").touch()
        assert paths[0].stat().st_mode == (tmp_path / "plain").stat().st_mode
        stamps = [path.stat().st_mtime_ns for path in paths]
        assert [path.stat().st_mtime_ns for path in client.download("job1", paths[0].parent)] == stamps, "written twice"


def test_damaged_download_is_refused_and_leaves_what_was_there(
    service: FakeService, spec: PruneJobCreate, tmp_path: Path
) -> None:
    service.add_job(spec)
    service.damage = {"model.onnx"}
    (tmp_path / "model.onnx").write_text("older")
    with Client(service.url) as client, pytest.raises(ChecksumMismatch) as caught:
        client.download("job1", tmp_path)
    assert caught.value.expected != caught.value.actual
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"model.onnx": "older"}


def test_file_name_cannot_leave_the_folder(service: FakeService, spec: PruneJobCreate, tmp_path: Path) -> None:
    service.add_job(spec)
    for name in ("../evil", "/etc/evil", ".hidden"):
        service.files = {name: b"x"}
        with Client(service.url) as client, pytest.raises(UnexpectedAnswer, match="not a plain file name"):
            client.download("job1", tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]


def test_unknown_file_is_named_with_those_there_are(service: FakeService, spec: PruneJobCreate, tmp_path: Path) -> None:
    service.add_job(spec)
    with Client(service.url) as client, pytest.raises(UsageError, match=r"no file nope.*model\.onnx, report\.json"):
        client.download("job1", tmp_path, names=["nope"])


def test_nobody_there_is_a_connection_failed() -> None:
    with Client(dead_url()) as client, pytest.raises(ConnectionFailed):
        next(client.devices())


def test_stranger_at_the_address_is_told_from_the_service(service: FakeService) -> None:
    with Client(f"{service.url}/html?") as client, pytest.raises(UnexpectedAnswer, match="does not answer like"):
        client.job("job1")


def test_proxies_of_the_environment_are_not_used_on_loopback(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", dead_url())
    monkeypatch.delenv("NO_PROXY", raising=False)
    with Client(service.url) as client:
        assert [device.name for device in client.devices()] == ["local"]
        assert [lut.step for lut in client.luts()] == [8]


def dead_url() -> str:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"
