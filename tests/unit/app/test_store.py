"""The repositories on both databases."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.store.base import database_now
from app.store.models import PruneJobRow, WorkerRow
from app.store.repositories import (
    Artifacts,
    Datasets,
    Devices,
    Events,
    Holds,
    Idempotency,
    Jobs,
    Luts,
    Models,
    Workers,
)
from app.store.sessions import Database
from secateur.schemas import JobStatus

SHA = "a" * 64


def add_model(session: Session, sha256: str = SHA) -> str:
    return (
        Models(session)
        .add(
            name="net",
            arch="cifar/resnet20",
            sha256=sha256,
            size_bytes=2**40,
            num_parameters=5,
            num_outputs=3,
            input_shape=None,
            class_names=None,
        )
        .id
    )


def add_dataset(session: Session) -> str:
    return (
        Datasets(session)
        .add(
            name="pets",
            sha256=SHA,
            size_bytes=9,
            image_size=32,
            mean=[0.5, 0.5, 0.5],
            std=[0.25, 0.25, 0.25],
            classes=["cat", "dog", "elk"],
            num_images={"train": 3},
            num_skipped=0,
            skipped=[],
            class_map=None,
        )
        .id
    )


def add_job(database: Database) -> str:
    with database.write() as session:
        model_id, dataset_id = add_model(session), add_dataset(session)
        return Jobs(session).add(name="", spec={}, model_id=model_id, dataset_id=dataset_id, device_id="local").id


def job(database: Database, job_id: str) -> PruneJobRow:
    with database.read() as session:
        row = Jobs(session).get(job_id)
        assert row is not None
        return row


def status_events(database: Database, job_id: str) -> list[str]:
    with database.read() as session:
        return [row.data["status"] for row in Events(session).after(job_id) if row.kind == "status"]


def run_together(*actions: Callable[[], object]) -> list[object]:
    """Results of actions begun at once in threads; an exception counts as its result."""
    barrier = threading.Barrier(len(actions))
    results: list[object] = [None] * len(actions)

    def run(position: int, action: Callable[[], object]) -> None:
        barrier.wait()
        try:
            results[position] = action()
        except Exception as error:  # noqa: BLE001  (the test judges it)
            results[position] = error

    threads = [threading.Thread(target=run, args=item) for item in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


def test_timestamps_come_back_aware_in_utc_and_from_the_database(database: Database) -> None:
    row = job(database, add_job(database))
    assert row.created_at.tzinfo is UTC
    assert abs(datetime.now(UTC) - row.created_at) < timedelta(minutes=1)


def test_a_job_walks_through_its_statuses_and_each_step_leaves_an_event(database: Database) -> None:
    job_id = add_job(database)
    with database.write() as session:
        assert Jobs(session).begin(job_id, "h/0:a")
        assert Jobs(session).set_phase(job_id, "scoring")
        assert Jobs(session).set_progress(job_id, 0.4)
        assert Jobs(session).succeed(job_id, outcome="budget_met", summary={"measured_ms": 1.5})
    row = job(database, job_id)
    assert (row.status, row.outcome, row.phase, row.progress, row.attempt) == (
        "succeeded",
        "budget_met",
        "scoring",
        1.0,
        1,
    )
    assert row.started_at is not None and row.ended_at is not None and row.started_at <= row.ended_at
    assert status_events(database, job_id) == ["queued", "running", "succeeded"]


@pytest.mark.parametrize("end", ["succeed", "fail", "finish_cancel"])
def test_an_ended_job_does_not_change_any_more(database: Database, end: str) -> None:
    job_id = add_job(database)
    with database.write() as session:
        jobs = Jobs(session)
        jobs.begin(job_id, "w")
        ends = {
            "succeed": lambda: jobs.succeed(job_id, outcome="infeasible", summary={}),
            "fail": lambda: jobs.fail(job_id, code="x", detail="y"),
            "finish_cancel": lambda: jobs.finish_cancel(job_id),
        }
        assert ends[end]()
        assert not any(action() for action in ends.values())
        assert not jobs.begin(job_id, "w") and not jobs.set_phase(job_id, "p") and not jobs.set_progress(job_id, 1)
        assert jobs.request_cancel(job_id) is None


def test_cancelling_a_queued_job_ends_it_and_a_running_one_asks_its_worker(database: Database) -> None:
    queued, running = add_job(database), add_job(database)
    with database.write() as session:
        jobs = Jobs(session)
        assert jobs.request_cancel(queued) is JobStatus.CANCELLED
        assert not jobs.begin(queued, "w")
        jobs.begin(running, "w")
        assert jobs.request_cancel(running) is JobStatus.CANCELLING
        assert not jobs.succeed(running, outcome="budget_met", summary={})
        assert jobs.finish_cancel(running)
    assert status_events(database, running) == ["queued", "running", "cancelling", "cancelled"]


def test_a_retry_starts_afresh_under_another_workflow(database: Database) -> None:
    job_id = add_job(database)
    first = job(database, job_id).workflow_id
    with database.write() as session:
        assert Jobs(session).requeue(job_id) is None
        Jobs(session).begin(job_id, "w")
        Jobs(session).lose_worker(job_id, "w")
        Jobs(session).begin(job_id, "v")
        Jobs(session).fail(job_id, code="x", detail="y", errors=[{"pointer": "/a", "detail": "b"}])
        second = Jobs(session).requeue(job_id)
    row = job(database, job_id)
    assert second == row.workflow_id != first
    assert (row.status, row.failure, row.num_lost, row.started_at, row.attempt) == ("queued", None, 0, None, 2)


def test_of_two_workers_that_begin_a_cancelled_race_only_one_side_wins(database: Database) -> None:
    for _ in range(5):
        job_id = add_job(database)

        def cancel(job_id: str = job_id) -> object:
            with database.write() as session:
                return Jobs(session).request_cancel(job_id)

        def begin(job_id: str = job_id) -> object:
            with database.write() as session:
                return Jobs(session).begin(job_id, "w")

        cancelled, begun = run_together(cancel, begin)
        assert (cancelled, begun) in [(JobStatus.CANCELLED, False), (JobStatus.CANCELLING, True)]


def test_a_lost_worker_is_counted_once_and_not_when_the_job_moved_on(database: Database) -> None:
    job_id = add_job(database)
    with database.write() as session:
        jobs = Jobs(session)
        jobs.begin(job_id, "a")
        assert [row.id for row in jobs.active_of_worker("a")] == [job_id]
        assert jobs.lose_worker(job_id, "a") == 1
        assert jobs.lose_worker(job_id, "a") is None
        jobs.begin(job_id, "b")
        assert jobs.lose_worker(job_id, "a") is None


def test_events_of_one_job_become_visible_in_the_order_of_their_ids(database: Database) -> None:
    job_id = add_job(database)
    seen: list[int] = []
    stop = threading.Event()

    def append() -> None:
        for number in range(15):
            with database.write() as session:
                Events(session).append(job_id, "metric", {"n": number})

    def follow() -> None:
        while True:
            last_round = stop.is_set()
            with database.read() as session:
                seen.extend(row.id for row in Events(session).after(job_id, seen[-1] if seen else 0))
            if last_round:
                return

    follower = threading.Thread(target=follow)
    follower.start()
    run_together(append, append, append)
    stop.set()
    follower.join(30)
    with database.read() as session:
        assert seen == [row.id for row in Events(session).after(job_id)]
    assert len(seen) == 46


def test_an_event_of_an_unknown_job_is_refused(database: Database) -> None:
    with pytest.raises(LookupError), database.write() as session:
        Events(session).append("job_x", "log", {})


def test_jobs_are_paged_newest_first_and_filtered_by_status(database: Database) -> None:
    ids = [add_job(database) for _ in range(5)]
    with database.write() as session:
        Jobs(session).begin(ids[1], "w")
    with database.read() as session:
        first = Jobs(session).page(limit=2)
        second = Jobs(session).page(limit=2, before=first.next_before)
        third = Jobs(session).page(limit=2, before=second.next_before)
        assert [row.id for page in (first, second, third) for row in page.rows] == ids[::-1]
        assert third.next_before is None
        assert [row.id for row in Jobs(session).page(status=[JobStatus.RUNNING]).rows] == [ids[1]]


def test_a_page_that_is_exactly_full_is_the_last(database: Database) -> None:
    ids = {add_job(database) for _ in range(2)}
    with database.read() as session:
        page = Jobs(session).page(limit=2)
    assert {row.id for row in page.rows} == ids and page.next_before is None


def test_deleting_a_model_leaves_its_ended_jobs(database: Database) -> None:
    job_id = add_job(database)
    with database.write() as session:
        Jobs(session).request_cancel(job_id)
        model_id = Models(session).page().rows[0].id
        assert Jobs(session).active_of_model(model_id) == []
        row = Models(session).get(model_id, lock=True)
        assert row is not None
        Models(session).delete(row)
    assert job(database, job_id).model_id is None


def test_active_jobs_name_what_they_use(database: Database) -> None:
    job_id = add_job(database)
    row = job(database, job_id)
    with database.read() as session:
        assert row.model_id and row.dataset_id
        assert Jobs(session).active_of_model(row.model_id) == [job_id]
        assert Jobs(session).active_of_dataset(row.dataset_id) == [job_id]


def test_a_silent_worker_is_declared_dead_by_exactly_one_of_several(database: Database) -> None:
    with database.write() as session:
        Workers(session).register("h/0:a", slot="h/0", device_id="local")
        Workers(session).register("h/1:b", slot="h/1", device_id="local")
        beats = Workers(session).beats()
        assert set(beats) == {"h/0:a", "h/1:b"}
    with database.write() as session:
        session.execute(update(WorkerRow).where(WorkerRow.id == "h/1:b").values(heartbeat_at=database_now(-300)))

    def reap() -> object:
        with database.write() as session:
            return Workers(session).declare_dead(beats)

    assert sorted(map(str, run_together(reap, reap, reap))) == ["['h/0:a']", "[]", "[]"], (
        "a worker that has beaten since is not dead, whatever the time of its beat"
    )
    with database.write() as session:
        assert list(Workers(session).beats()) == ["h/1:b"]
        assert not Workers(session).heartbeat("h/0:a"), "a zombie may not come back"
        assert Workers(session).heartbeat("h/1:b")


def test_a_new_boot_takes_its_slot_over(database: Database) -> None:
    with database.write() as session:
        for worker_id in ("h/0:a", "h/0:b", "h/1:c"):
            Workers(session).register(worker_id, slot=worker_id[:3], device_id="local")
        assert Workers(session).declare_older_boots_dead("h/0", "h/0:b") == ["h/0:a"]
        assert {row.id for row in Workers(session).live(30, device_id="local")} == {"h/0:b", "h/1:c"}
        assert Workers(session).live(30, device_id="other") == []
        assert Workers(session).stop("h/1:c") and not Workers(session).stop("h/1:c")


def test_jobs_left_by_dead_workers_are_found_again(database: Database) -> None:
    job_id = add_job(database)
    with database.write() as session:
        Workers(session).register("h/0:a", slot="h/0", device_id="local")
        Jobs(session).begin(job_id, "h/0:a")
        assert Workers(session).dead_with_jobs() == []
        Workers(session).declare_older_boots_dead("h/0", "h/0:b")
        assert Workers(session).dead_with_jobs() == ["h/0:a"]
        Jobs(session).lose_worker(job_id, "h/0:a")
        assert Workers(session).dead_with_jobs() == []


def save_table(session: Session, fingerprint: str, num_entries: int) -> str:
    lut = Luts(session).save(
        device_id="local",
        fingerprint=fingerprint,
        profile={"threads": 1},
        blob_sha256=f"{num_entries:064x}",
        num_entries=num_entries,
        num_signatures=2,
        step=8,
        noise=0.02,
        seconds=4.5,
    )
    return lut.id


def test_a_table_measured_again_replaces_the_old_one_under_the_same_id(database: Database) -> None:
    with database.write() as session:
        Devices(session).register("local", name="l", hardware="cpu", runtime="ort", runtime_version="1")
        device = Devices(session).register("local", name="l", hardware="cpu", runtime="ort", runtime_version="2")
        assert device.runtime_version == "2"
        first = save_table(session, "f", 1)
    with database.write() as session:
        assert save_table(session, "f", 7) == first != save_table(session, "g", 7)
        row = Luts(session).get(first)
        assert row is not None and row.num_entries == 7 and row.updated_at > row.created_at
        assert Luts(session).find("local", "h") is None
        assert len(Luts(session).page(device_id="local").rows) == 2
        assert Luts(session).page(device_id="other").rows == []


def test_tables_of_an_unknown_device_are_refused(database: Database) -> None:
    with pytest.raises(IntegrityError), database.write() as session:
        save_table(session, "f", 1)


def test_two_workers_may_register_one_device_and_save_one_table_at_once(database: Database) -> None:
    def register() -> object:
        with database.write() as session:
            Devices(session).register("local", name="l", hardware="cpu", runtime="ort", runtime_version="1")
            return save_table(session, "f", 1)

    results = run_together(register, register, register)
    assert len(set(map(str, results))) == 1 and isinstance(results[0], str)


def test_an_artifact_of_the_same_name_is_replaced_and_hidden_ones_stay_apart(database: Database) -> None:
    job_id = add_job(database)
    with database.write() as session:
        artifacts = Artifacts(session)
        artifacts.save(job_id, "plan.json", sha256=SHA, size_bytes=1, media_type="application/json")
        artifacts.save(job_id, "plan.json", sha256="b" * 64, size_bytes=2, media_type="application/json")
        artifacts.save(job_id, "checkpoint", sha256=SHA, size_bytes=3, media_type="x/y", hidden=True)
        assert [(row.name, row.size_bytes) for row in artifacts.list(job_id)] == [("plan.json", 2)]
        assert [row.name for row in artifacts.list(job_id, hidden=True)] == ["checkpoint"]


def test_an_idempotency_key_answers_until_it_is_too_old(database: Database) -> None:
    with database.write() as session:
        answers = Idempotency(session)
        answers.add("POST /x", "k", body_sha256=SHA, status=202, location="/x/1", body={"id": 1})
        found = answers.find("POST /x", "k", max_age_s=60)
        assert found is not None and found.body == {"id": 1}
        assert answers.find("POST /y", "k", max_age_s=60) is None
        answers.delete_old(60)
        assert answers.find("POST /x", "k", max_age_s=60) is not None
        answers.delete_old(-60)
        assert answers.find("POST /x", "k", max_age_s=60) is None


def test_of_two_requests_with_one_key_only_one_is_kept(database: Database) -> None:
    def add() -> object:
        with database.write() as session:
            Idempotency(session).add("POST /x", "k", body_sha256=SHA, status=202, location="/", body={})
            return "kept"

    results = run_together(add, add)
    assert sorted(type(result).__name__ for result in results) == ["IntegrityError", "str"]


def test_a_blob_is_needed_while_a_row_or_a_hold_names_it(database: Database) -> None:
    with database.write() as session:
        holds = Holds(session)
        assert not holds.is_referenced(SHA)
        hold_id = holds.add(SHA)
        assert holds.is_referenced(SHA)
        model_id = add_model(session)
        holds.release(hold_id)
        assert holds.is_referenced(SHA) and holds.all_referenced() == {SHA}
        row = Models(session).get(model_id)
        assert row is not None
        Models(session).delete(row)
        assert not holds.is_referenced(SHA)
        holds.add("c" * 64)
        assert holds.release_old(60) == [] and holds.release_old(-60) == ["c" * 64]


def test_a_block_that_raises_leaves_nothing(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as session:
        add_model(session)
        raise ZeroDivisionError
    with database.read() as session:
        assert Models(session).page().rows == []


def test_writers_wait_for_each_other_instead_of_failing(database: Database) -> None:
    job_id = add_job(database)

    def count() -> object:
        for _ in range(10):
            with database.write() as session:
                row = Jobs(session).get(job_id)
                assert row is not None
                session.execute(
                    update(PruneJobRow).where(PruneJobRow.id == job_id).values(num_lost=PruneJobRow.num_lost + 1)
                )
        return None

    assert run_together(count, count, count, count) == [None] * 4
    assert job(database, job_id).num_lost == 40
