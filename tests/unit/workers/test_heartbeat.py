"""The reaper passes on what the dead held, once."""

import threading
import time
from collections.abc import Callable, Collection
from datetime import datetime

import pytest

from app.store.base import database_now
from app.store.repositories import Artifacts, Events, Jobs, Waits, Workers
from app.store.sessions import Database
from tests.unit.workers.worker_store import PROFILE, Store
from workers.heartbeat import Heartbeat
from workers.reaper import Reaper, Running


class FakeQueues:
    """A job engine that only remembers what it was asked to do."""

    def __init__(self, *running: Running) -> None:
        self.held = list(running)
        self.resumed: list[str] = []
        self.cancelled: list[str] = []
        self.known: dict[str, str] = {}
        self.num_looks = 0
        self.lost: list[Running] = []
        self.of_versions: dict[str, str] = {}
        self.taken_at_look: dict[int, Running] = {}
        self.before_resume: Callable[[], None] = lambda: None

    def running(self) -> list[Running]:
        """What executors hold, changed by others between two looks as a test arranged it."""
        self.num_looks += 1
        if change := self.taken_at_look.get(self.num_looks):
            self.held = [change]
        return list(self.held)

    def resume(self, workflow_id: str, queue: str) -> None:
        """Remember."""
        self.before_resume()
        self.resumed.append(f"{workflow_id} {queue}")
        self.held = [running for running in self.held if running.workflow_id != workflow_id]

    def cancel(self, workflow_id: str) -> None:
        """Remember."""
        self.cancelled.append(workflow_id)

    def adrift(self) -> list[Running]:
        """What the test said."""
        return self.lost

    def outdated(self, versions: Collection[str]) -> list[str]:
        """What the test said of which version queued workflows are."""
        return [workflow_id for workflow_id, version in self.of_versions.items() if version not in versions]

    def statuses(self, workflow_ids: list[str]) -> dict[str, str]:
        """What the test said."""
        return {key: value for key, value in self.known.items() if key in workflow_ids}


def held(workflow_id: str, executor_id: str, *, expired: bool = False) -> Running:
    """A workflow that an executor took."""
    return Running(workflow_id=workflow_id, queue="device:local", executor_id=executor_id, expired=expired)


def spare(worker_id: str, *, only_stopped: bool) -> bool:
    """End no process."""
    return False


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


@pytest.mark.parametrize(("engine", "status"), [("SUCCESS", "running"), ("PENDING", "running"), ("ERROR", "failed")])
def test_a_job_of_a_live_worker_is_reconciled_only_when_its_workflow_broke(
    store: Store, engine: str, status: str
) -> None:
    job = store.add_job()
    store.begin(store.add_worker("a/0:1"), job)
    queues = FakeQueues()
    queues.known = {job.workflow_id: engine}
    Reaper(store.database, queues, spare, max_attempts=3, release=lambda: None).reconcile()
    assert store.job(job.id).status == status


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


def beating(store: Store, worker_id: str, queues: FakeQueues, ended: list[str] | None = None) -> Heartbeat:
    """The heartbeat of a worker, which beats when it is told to."""

    def end(worker_id: str, *, only_stopped: bool) -> bool:
        assert not only_stopped
        if ended is not None:
            ended.append(worker_id)
        return True

    reaper = Reaper(store.database, queues, end, max_attempts=3, release=lambda: None)
    return Heartbeat(store.url, reaper, end, worker_id, every_s=0.01, timeout_s=30, cut_off_s=30, on_lost=print)


def pass_time(heartbeat: Heartbeat, seconds: float) -> None:
    """Let what the heartbeat has seen lie further back."""
    seen = heartbeat._silences._seen
    heartbeat._silences._seen = {worker: (beat, since - seconds) for worker, (beat, since) in seen.items()}


def test_a_silent_worker_is_reaped_by_one_that_has_watched_it_for_long_enough(store: Store) -> None:
    silent = store.add_worker("a/0:1")
    store.add_worker("b/0:1")
    job = store.add_job()
    store.begin(silent, job)
    queues, ended = FakeQueues(held(job.workflow_id, "a/0:1")), list[str]()
    heartbeat = beating(store, "b/0:1", queues, ended)
    heartbeat._look_after_others()
    pass_time(heartbeat, 29)
    heartbeat._look_after_others()
    assert queues.resumed == []
    pass_time(heartbeat, 2)
    heartbeat._look_after_others()
    assert queues.resumed == [f"{job.workflow_id} device:local"]
    heartbeat._look_after_others()
    assert store.job(job.id).num_lost == 1 and ended == ["a/0:1"]


def test_steps_of_the_databases_clock_neither_kill_the_living_nor_keep_the_dead(store: Store) -> None:
    for worker_id in ("dead/0:1", "lives/0:1", "b/0:1"):
        store.add_worker(worker_id)
    ended: list[str] = []
    heartbeat = beating(store, "b/0:1", FakeQueues(), ended)
    for offset_s in (3600.0, -3600.0):
        heartbeat._look_after_others()
        pass_time(heartbeat, 16)
        with store.database.write() as session:
            row = Workers(session).get("lives/0:1")
            assert row is not None
            row.heartbeat_at = database_now(offset_s)
    heartbeat._look_after_others()
    assert ended == ["dead/0:1"]


def test_after_a_gap_of_its_own_a_worker_gives_the_others_time_to_beat(store: Store) -> None:
    store.add_worker("a/0:1")
    store.add_worker("b/0:1")
    ended: list[str] = []
    heartbeat = beating(store, "b/0:1", FakeQueues(), ended)
    heartbeat._look_after_others()
    pass_time(heartbeat, 60)
    heartbeat._silences._asked_at -= 60
    heartbeat._look_after_others()
    assert ended == []
    pass_time(heartbeat, 60)
    heartbeat._look_after_others()
    assert ended == ["a/0:1"]


def test_a_frozen_worker_is_watched_at_every_beat_killed_and_declared_dead_at_once(store: Store) -> None:
    store.add_worker("a/0:1")
    store.add_worker("b/0:1")
    reaper = Reaper(store.database, FakeQueues(), spare, max_attempts=3, release=lambda: None)

    def end(worker_id: str, *, only_stopped: bool) -> bool:
        return only_stopped and worker_id == "a/0:1"

    heartbeat = Heartbeat(store.url, reaper, end, "b/0:1", every_s=0.01, timeout_s=60, cut_off_s=60, on_lost=print)
    heartbeat.start()
    deadline = time.monotonic() + 60
    while not heartbeat._frozen._seen and time.monotonic() < deadline:
        time.sleep(0.01)
    heartbeat.stop()
    assert set(heartbeat._frozen._seen) == {"a/0:1", "b/0:1"}
    heartbeat._frozen._seen["a/0:1"] = (heartbeat._frozen._seen["a/0:1"][0], time.monotonic() - 61)
    heartbeat._end_frozen()
    with store.database.read() as session:
        assert set(Workers(session).beats()) == {"b/0:1"}


def test_a_worker_ends_when_it_is_cut_off_though_its_heartbeat_hangs(store: Store) -> None:
    store.add_worker("a/0:1")
    heard: list[str] = []

    def lost(reason: str) -> None:
        heard.append(reason)
        heartbeat._leaving.set()

    reaper = Reaper(store.database, FakeQueues(), spare, max_attempts=3, release=lambda: None)
    heartbeat = Heartbeat(store.url, reaper, spare, "a/0:1", every_s=0.01, timeout_s=60, cut_off_s=0.2, on_lost=lost)
    with store.database.write() as session:  # holds the worker's row, and on SQLite everything
        assert Workers(session).heartbeat("a/0:1")
        heartbeat.start()
        assert heartbeat._leaving.wait(60)
        assert heard[0] == "cut off from the database for 0.2 s"
    heartbeat.join(60)


def test_a_reaper_that_hangs_does_not_silence_the_worker(store: Store) -> None:
    store.add_worker("a/0:1")
    hangs, free = threading.Event(), threading.Event()

    def release() -> None:
        hangs.set()
        free.wait(60)

    def beat() -> datetime:
        with store.database.read() as session:
            return Workers(session).beats()["a/0:1"]

    reaper = Reaper(store.database, FakeQueues(), spare, max_attempts=3, release=release)
    heartbeat = Heartbeat(store.url, reaper, spare, "a/0:1", every_s=0.01, timeout_s=60, cut_off_s=60, on_lost=print)
    heartbeat.start()
    assert hangs.wait(60)
    last, deadline = beat(), time.monotonic() + 60
    while beat() == last and time.monotonic() < deadline:
        time.sleep(0.01)
    assert beat() != last
    free.set()
    heartbeat.stop()


def test_a_lost_worker_is_counted_before_its_work_is_given_back_whoever_does_so(store: Store) -> None:
    job = store.add_job()
    store.begin(store.add_worker("a/0:1"), job)
    die(store, "a/0", "none")
    queues = FakeQueues(held(job.workflow_id, "a/0:1"))
    num_lost: list[int] = []
    queues.before_resume = lambda: num_lost.append(store.job(job.id).num_lost)
    reaper = Reaper(store.database, queues, spare, max_attempts=3, release=lambda: None)
    reaper.rescue()
    reaper.reap(["a/0:1"])
    assert num_lost == [1] and store.job(job.id).num_lost == 1


def test_what_a_worker_holds_without_knowing_is_given_back(store: Store) -> None:
    queues = FakeQueues()
    queues.lost = [held("w", "a/0:1")]
    Reaper(store.database, queues, spare, max_attempts=3, release=lambda: None).recall()
    assert queues.resumed == ["w device:local"]


@pytest.mark.parametrize("begun", [False, True])
def test_a_job_of_a_version_without_workers_begins_anew(store: Store, begun: bool) -> None:
    journal, job = store.add_worker("a/0:1"), store.add_job()
    if begun:
        view = store.begin(journal, job)
        journal.finish_step(view, "work", {"summary": {"a": 1}}, [store.kept("o.txt")], 0.5)
        journal.hand_back(view)
    queues = FakeQueues()
    queues.of_versions = {job.workflow_id: "1", "inspection": "1"}
    reaper = Reaper(store.database, queues, spare, max_attempts=3, release=lambda: None)
    reaper.recall()
    reaper.recall()
    assert queues.cancelled == [], "a worker that does not say its version may be of this one"
    version(store, "a/0:1", "1")
    reaper.recall()
    reaper.recall()
    assert queues.cancelled == [], "it has a worker"
    version(store, "a/0:1", "2")
    reaper.recall()
    assert queues.cancelled == [], "its worker may be about to come back"
    reaper.recall()
    assert queues.cancelled == ["inspection", job.workflow_id]
    row = store.job(job.id)
    assert (row.status, row.turn, row.progress, row.summary) == ("queued", None, 0.0, None)
    assert row.workflow_id != job.workflow_id and journal.begin(job.id, job.workflow_id, PROFILE) is None
    with store.database.read() as session:
        assert Artifacts(session).list(job.id) == Artifacts(session).list(job.id, hidden=True) == []
        assert job.id in Waits(session).due(), "whoever releases jobs that wait puts it on its queue"


def test_a_workflow_of_another_version_whose_worker_still_has_the_job_is_left(store: Store) -> None:
    job = store.add_job()
    store.begin(store.add_worker("a/0:1"), job)
    version(store, "a/0:1", "2")
    queues = FakeQueues()
    queues.of_versions = {job.workflow_id: "1"}
    reaper = Reaper(store.database, queues, spare, max_attempts=3, release=lambda: None)
    reaper.recall()
    reaper.recall()
    assert store.job(job.id).status == "running" and queues.cancelled == []


def version(store: Store, worker_id: str, version: str) -> None:
    """Let the worker be of this version."""
    with store.database.write() as session:
        row = Workers(session).get(worker_id)
        assert row is not None
        row.version = version
