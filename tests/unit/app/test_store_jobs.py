"""Jobs and their history on both databases."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from app.store.repositories import (
    Events,
    Jobs,
    Models,
)
from app.store.sessions import Database
from secateur.schemas import JobStatus
from tests.unit.app.store_rows import add_job, job, run_together, status_events


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
