"""The reaper passes on what the dead held, once."""

import time

import pytest

from app.store.base import database_now
from app.store.repositories import Events, Jobs, Workers
from app.store.sessions import Database
from tests.unit.workers.worker_store import Store
from workers.heartbeat import Heartbeat, Reaper, Running

LONG_AGO_S = -60.0


class FakeQueues:
    """A job engine that only remembers what it was asked to do."""

    def __init__(self, *running: Running) -> None:
        self.held = list(running)
        self.resumed: list[str] = []
        self.cancelled: list[str] = []
        self.known: dict[str, str] = {}
        self.num_looks = 0
        self.taken_at_look: dict[int, Running] = {}

    def running(self) -> list[Running]:
        """What executors hold, changed by others between two looks as a test arranged it."""
        self.num_looks += 1
        if change := self.taken_at_look.get(self.num_looks):
            self.held = [change]
        return list(self.held)

    def resume(self, workflow_id: str, queue: str) -> None:
        """Remember."""
        self.resumed.append(f"{workflow_id} {queue}")
        self.held = [running for running in self.held if running.workflow_id != workflow_id]

    def cancel(self, workflow_id: str) -> None:
        """Remember."""
        self.cancelled.append(workflow_id)

    def statuses(self, workflow_ids: list[str]) -> dict[str, str]:
        """What the test said."""
        return {key: value for key, value in self.known.items() if key in workflow_ids}


def held(workflow_id: str, executor_id: str, *, expired: bool = False) -> Running:
    """A workflow that an executor took."""
    return Running(workflow_id=workflow_id, queue="device:local", executor_id=executor_id, expired=expired)


def spare(worker_id: str, *, only_stopped: bool) -> None:
    """End no process."""


def die(store: Store, slot: str, heir: str) -> list[str]:
    """Declare the other boots of a slot dead."""
    with store.database.write() as session:
        return Workers(session).declare_older_boots_dead(slot, heir)


def test_the_work_of_the_dead_is_given_back_and_that_of_the_living_left(store: Store) -> None:
    dead, _ = store.add_worker("a/0:1"), store.add_worker("b/0:1")
    job = store.add_job()
    store.begin(dead, job)
    queues = FakeQueues(held(job.workflow_id, "a/0:1"), held("other", "b/0:1"), held("inspection", "a/0:1"))
    assert die(store, "a/0", "a/0:2") == ["a/0:1"]
    Reaper(store.database, queues, spare, max_attempts=3, release=lambda: None).reap(["a/0:1"])
    assert queues.resumed == [f"{job.workflow_id} device:local", "inspection device:local"]
    row = store.job(job.id)
    assert (row.status, row.worker_id, row.num_lost) == ("running", None, 1)


def test_a_job_that_lost_too_many_workers_fails_as_poison(store: Store) -> None:
    job = store.add_job()
    for boot in range(3):
        journal = store.add_worker(f"a/0:{boot}")
        store.begin(journal, job)
        queues = FakeQueues(held(job.workflow_id, f"a/0:{boot}"))
        die(store, "a/0", "none")
        Reaper(store.database, queues, spare, max_attempts=3, release=lambda: None).reap([f"a/0:{boot}"])
    failure = store.job(job.id).failure
    assert failure is not None and failure["code"] == "poison_job"
    with store.database.read() as session:
        kinds = [event.kind for event in Events(session).after(job.id)]
    assert kinds.count("warning") == 2


def test_a_job_being_cancelled_ends_cancelled_when_its_worker_dies(store: Store) -> None:
    job = store.add_job()
    store.begin(store.add_worker("a/0:1"), job)
    with store.database.write() as session:
        Jobs(session).request_cancel(job.id)
    die(store, "a/0", "none")
    Reaper(store.database, FakeQueues(), spare, max_attempts=3, release=lambda: None).reap(["a/0:1"])
    assert store.job(job.id).status == "cancelled"


def test_a_workflow_that_another_reaper_saved_meanwhile_is_left_in_good_hands(store: Store) -> None:
    store.add_worker("b/0:1")
    queues = FakeQueues(held("w", "a/0:1"))
    queues.taken_at_look = {2: held("w", "b/0:1")}
    Reaper(store.database, queues, spare, max_attempts=3, release=lambda: None).rescue()
    assert queues.resumed == []


def test_an_inspection_nobody_waits_for_is_cancelled_not_resumed(store: Store) -> None:
    queues = FakeQueues(held("w", "a/0:1", expired=True))
    Reaper(store.database, queues, spare, max_attempts=3, release=lambda: None).rescue()
    assert (queues.resumed, queues.cancelled) == ([], ["w"])


@pytest.mark.parametrize(
    ("engine", "code"), [("ERROR", "engine_error"), ("missing", "engine_error"), ("PENDING", None)]
)
def test_a_job_the_engine_lost_is_ended(store: Store, engine: str, code: str | None) -> None:
    job = store.add_job()
    queues = FakeQueues()
    if engine != "missing":
        queues.known = {job.workflow_id: engine}
    Reaper(store.database, queues, spare, max_attempts=3, release=lambda: None).reconcile()
    failure = store.job(job.id).failure
    assert (failure["code"] if failure else None) == code


def test_a_job_of_a_live_worker_is_not_reconciled(store: Store) -> None:
    job = store.add_job()
    store.begin(store.add_worker("a/0:1"), job)
    queues = FakeQueues()
    queues.known = {job.workflow_id: "SUCCESS"}
    Reaper(store.database, queues, spare, max_attempts=3, release=lambda: None).reconcile()
    assert store.job(job.id).status == "running"


def test_a_cancel_that_came_after_the_hand_back_is_finished(store: Store) -> None:
    job = store.add_job()
    journal = store.add_worker("a/0:1")
    journal.hand_back(store.begin(journal, job))
    with store.database.write() as session:
        Jobs(session).request_cancel(job.id)
    queues = FakeQueues()
    queues.known = {job.workflow_id: "ENQUEUED"}
    Reaper(store.database, queues, spare, max_attempts=3, release=lambda: None).reconcile()
    assert store.job(job.id).status == "cancelled"


def test_a_worker_that_was_declared_dead_hears_of_it_at_its_next_beat(store: Store) -> None:
    store.add_worker("a/0:1")
    heard: list[str] = []
    reaper = Reaper(store.database, FakeQueues(), spare, max_attempts=3, release=lambda: None)
    heartbeat = Heartbeat(
        store.url, reaper, spare, "a/0:1", every_s=0.01, timeout_s=60, cut_off_s=60, on_lost=heard.append
    )
    heartbeat._beat()
    assert heard == []
    die(store, "a/0", "a/0:2")
    heartbeat._beat()
    assert heard == ["declared dead by another worker"]


def test_a_worker_that_cannot_reach_the_database_for_too_long_is_told_to_end() -> None:
    nowhere = "postgresql+psycopg://127.0.0.1:9/nothing"
    database = Database(nowhere)
    reaper = Reaper(database, FakeQueues(), spare, max_attempts=3, release=lambda: None)
    heard: list[tuple[float, str]] = []
    began = time.monotonic()

    def lost(reason: str) -> None:
        heard.append((time.monotonic() - began, reason))
        heartbeat._leaving.set()

    heartbeat = Heartbeat(nowhere, reaper, spare, "a/0:1", every_s=0.01, timeout_s=0.1, cut_off_s=0.5, on_lost=lost)
    heartbeat.run()
    ((waited_s, reason),) = heard
    assert waited_s > 0.5 and reason == "cut off from the database for 0.5 s"
    database.close()


def test_a_silent_worker_is_reaped_by_one_that_has_been_beating(store: Store) -> None:
    silent = store.add_worker("a/0:1")
    store.add_worker("b/0:1")
    job = store.add_job()
    store.begin(silent, job)
    with store.database.write() as session:
        row = Workers(session).get("a/0:1")
        assert row is not None
        row.heartbeat_at = database_now(LONG_AGO_S)
    queues = FakeQueues(held(job.workflow_id, "a/0:1"))
    ended: list[str] = []

    def end(worker_id: str, *, only_stopped: bool) -> None:
        assert not only_stopped
        ended.append(worker_id)

    reaper = Reaper(store.database, queues, end, max_attempts=3, release=lambda: None)
    heartbeat = Heartbeat(store.url, reaper, end, "b/0:1", every_s=0.01, timeout_s=30, cut_off_s=30, on_lost=print)
    heartbeat._beat()
    assert queues.resumed == [], "it has not yet been beating for long enough to judge others"
    heartbeat._steady_since -= 30
    heartbeat._beat()
    assert queues.resumed == [f"{job.workflow_id} device:local"]
    heartbeat._beat()
    assert store.job(job.id).num_lost == 1 and ended == ["a/0:1"]
