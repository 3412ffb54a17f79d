"""The job engine with real processes and real signals, on SQLite and Postgres: every job ends once, and right."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.integration.engine_service import Service, eventually, lives, slot_of


@pytest.fixture
def service(tmp_path: Path, empty_url: str) -> Iterator[Service]:
    """An empty service without a worker."""
    service = Service(tmp_path, empty_url)
    yield service
    service.close()


def assert_done_once(service: Service, job_id: str, *, ticks: int) -> None:
    """The job succeeded, and every step and tick happened once: it went on exactly where it was interrupted."""
    job = service.ended(job_id)
    assert (job.status, job.outcome) == ("succeeded", "budget_met")
    assert job.summary == {"budget_ms": 1.5, "measured_ms": 1.25, "accuracy": 0.5}
    assert [len(service.ledger(step)) for step in ("first", "worked", "last")] == [1, 1, 1]
    assert [int(line[1]) for line in service.ledger("tick")] == list(range(ticks)), "a tick was lost or repeated"
    assert [event.data["status"] for event in service.events(job_id, "status")].count("succeeded") == 1
    assert service.artifacts(job_id, hidden=False) == ["work.json"]
    assert not [name for name in service.artifacts(job_id, hidden=True) if name.startswith("checkpoint/")]


def test_a_job_runs_to_its_end_and_leaves_its_files_figures_and_history(service: Service) -> None:
    service.start_worker()
    job_id = service.submit(act="environment")
    assert_done_once(service, job_id, ticks=3)
    progress = [event.data["progress"] for event in service.events(job_id, "progress")]
    assert progress == sorted(progress) and progress[-1] == 1.0
    assert [event.data["phase"] for event in service.events(job_id, "phase")] == [
        "validating",
        "finetuning",
        "exporting",
    ]
    assert [event.data for event in service.events(job_id, "metric")] == [{"tick": t, "loss": None} for t in range(3)]
    assert len(service.ledger("environment")[0]) == 2, "the child saw a setting or a secret of its worker"
    eventually(lambda: not [*(service.home / "scratch").glob("*/*")], "an empty scratch folder")


def test_a_killed_worker_started_again_finishes_the_same_job_once(service: Service) -> None:
    worker = service.start_worker()
    job_id = service.submit(ticks=5, hold=3)
    child = service.held(job_id)
    worker.kill()
    worker.wait()
    eventually(lambda: not lives(child), "the death of the child")
    service.start_worker()
    assert_done_once(service, job_id, ticks=5)
    job = service.job(job_id)
    assert (job.attempt, job.num_lost) == (2, 1)
    assert len(service.live_workers()) == 1


def two_workers(service: Service) -> list[subprocess.Popen[bytes]]:
    """Workers in the slots 0 and 1, both live."""
    workers = [service.start_worker(slot=slot) for slot in (0, 1)]
    eventually(lambda: len(service.live_workers()) == 2, "two workers")
    return workers


def test_the_job_of_a_killed_worker_goes_on_at_another_one(service: Service) -> None:
    workers = two_workers(service)
    job_id = service.submit(ticks=5, hold=3)
    service.held(job_id)
    workers[slot_of(service, job_id)].kill()
    assert_done_once(service, job_id, ticks=5)
    assert service.job(job_id).num_lost == 1


def test_a_frozen_worker_is_ended_and_its_job_goes_on(service: Service) -> None:
    workers = two_workers(service)
    job_id = service.submit(ticks=5, hold=3)
    child = service.held(job_id)
    frozen = workers[slot_of(service, job_id)]
    frozen.send_signal(signal.SIGSTOP)
    assert frozen.wait(60) == -signal.SIGKILL, "it could hold the device, and on SQLite the database"
    eventually(lambda: not lives(child), "the end of the frozen worker's child")
    assert_done_once(service, job_id, ticks=5)


def test_a_zombie_of_another_machine_loses_its_job_and_ends_when_it_thaws(tmp_path: Path, postgres_url: str) -> None:
    service = Service(tmp_path, postgres_url)
    try:
        zombie = service.start_worker(slot=0, locks="other machine")
        job_id = service.submit(ticks=5, hold=3)
        child = service.held(job_id)
        zombie.send_signal(signal.SIGSTOP)
        eventually(lambda: not lives(child), "the end of the zombie's child, which hears nothing from it")
        service.start_worker(slot=1)
        assert_done_once(service, job_id, ticks=5)
        zombie.send_signal(signal.SIGCONT)
        assert zombie.wait(30) == 75
        assert_done_once(service, job_id, ticks=5)
    finally:
        service.close()


def test_a_killed_child_is_started_again_from_its_checkpoint(service: Service) -> None:
    service.start_worker()
    job_id = service.submit(ticks=5, hold=3)
    child = service.held(job_id)
    os.kill(child, signal.SIGKILL)
    assert_done_once(service, job_id, ticks=5)
    assert [event.data["code"] for event in service.events(job_id, "warning")] == ["step_killed"]


@pytest.mark.parametrize(
    ("act", "code", "words"),
    [
        ("problem", "bad_labels", "Label 7 is not a class."),
        ("raise", "step_crashed", "ZeroDivisionError: the last words"),
        ("segfault", "step_killed", "SIGSEGV"),
    ],
)
def test_a_step_that_breaks_fails_the_job_with_its_reason(
    tmp_path: Path, sqlite_url: str, act: str, code: str, words: str
) -> None:
    service = Service(tmp_path, sqlite_url)
    try:
        service.start_worker()
        job_id = service.submit(act=act)
        job = service.ended(job_id)
        assert job.status == "failed" and job.failure is not None
        assert job.failure["code"] == code and words in job.failure["detail"]
        assert len(service.ledger("work")) == 1, "a step that fails by its own doing is not tried again"
        if act == "raise":
            tail = service.events(job_id, "log")[-1].data["text"]
            assert "Traceback" in tail and "to be or not to be" in tail
    finally:
        service.close()


def test_a_silent_step_is_ended_and_tried_once_more(tmp_path: Path, sqlite_url: str) -> None:
    service = Service(tmp_path, sqlite_url, stall_timeout_s=3)
    try:
        service.start_worker()
        job = service.ended(service.submit(act="stall"))
        assert job.failure is not None and job.failure["code"] == "step_stalled"
        assert len(service.ledger("work")) == 2
    finally:
        service.close()


def test_cancelling_ends_the_child_and_everything_it_started(service: Service) -> None:
    service.start_worker()
    job_id = service.submit(ticks=1000, tick_s=0.2, act="grandchild")
    grandchild = int(service.wait_for("grandchild")[1])
    child = int(service.wait_for("tick", "1")[-1])
    service.cancel(job_id)
    eventually(lambda: not lives(child) and not lives(grandchild), "the end of the child")
    assert service.ended(job_id).status == "cancelled"
    num_ticks = len(service.ledger("tick"))
    other = service.submit()
    assert service.ended(other).status == "succeeded", "the device is free for the next job"
    assert len(service.ledger("tick")) == num_ticks + 3
    assert service.job(job_id).status == "cancelled"


def test_a_queued_job_that_is_cancelled_never_runs(service: Service) -> None:
    job_id = service.submit()
    service.cancel(job_id)
    service.start_worker()
    other = service.submit()
    assert service.ended(other).status == "succeeded"
    assert service.job(job_id).status == "cancelled"
    assert len(service.ledger("first")) == 1


def test_a_job_that_kills_its_workers_is_given_up(service: Service) -> None:
    job_id = service.submit(act="kill_worker")
    for _ in range(3):
        assert service.start_worker().wait(30) == -signal.SIGKILL
    service.start_worker()
    job = service.ended(job_id)
    assert job.failure is not None and job.failure["code"] == "poison_job"
    assert service.ended(service.submit()).status == "succeeded", "the worker goes on with other jobs"
    assert len(service.ledger("work")) == 4


def test_two_workers_share_the_queue_and_take_turns_on_the_device(service: Service) -> None:
    jobs = [service.submit(ticks=3, tick_s=0.1) for _ in range(4)]
    service.start_worker(slot=0)
    service.start_worker(slot=1)
    assert {service.ended(job).status for job in jobs} == {"succeeded"}
    assert len({service.job(job).worker_id for job in jobs}) == 2
    lines = [line for line in service.ledger() if line[0] in ("work", "tick", "worked")]
    turns = [line[-1] for line in lines if line[0] == "work"]
    assert [line[-1] for line in lines] == [pid for pid in turns for _ in range(5)], "two children used the device"


def test_a_slot_is_held_by_one_worker(service: Service) -> None:
    service.start_worker(slot=0)
    eventually(service.live_workers, "a worker")
    assert service.start_worker(slot=0).wait(30) != 0
    assert service.ended(service.submit()).status == "succeeded"


def test_a_worker_that_is_told_to_stop_twice_hands_its_job_back_as_it_is(service: Service) -> None:
    worker = service.start_worker()
    job_id = service.submit(ticks=5, hold=3)
    child = service.held(job_id)
    worker.terminate()
    time.sleep(1.0)
    assert lives(child) and worker.poll() is None, "it waits for a checkpoint, which does not come"
    worker.send_signal(signal.SIGINT)
    assert worker.wait(10) == 0
    assert not lives(child)
    assert service.live_workers() == []
    assert (service.job(job_id).status, service.job(job_id).worker_id) == ("running", None)
    service.start_worker()
    assert_done_once(service, job_id, ticks=5)
    assert service.job(job_id).num_lost == 0, "a worker that stops in good order is not a lost one"


def test_an_inspection_does_not_wait_for_a_running_job(service: Service) -> None:
    service.start_worker()
    job_id = service.submit(ticks=1000, tick_s=0.1)
    service.wait_for("tick", "0")
    good, bad = service.blobs.put_bytes(b"good"), service.blobs.put_bytes(b"bad")
    verdicts = []
    for blob in (good, bad):
        payload = {"arch": "toy", "blob_sha256": blob.sha256}
        inspect_id = service.queue.start_inspect("model", payload, timeout_s=30)
        verdicts.append(eventually(partial(service.queue.inspect_result, inspect_id), "the verdict"))
    assert verdicts[0] == {"ok": {"size": 4, "arch": "toy"}}
    assert verdicts[1]["problem"]["status"] == 422 and verdicts[1]["problem"]["code"] == "wrong_weights"
    assert service.job(job_id).status == "running"
