"""What agents are asked: once, leased to one of them at a time, answered once; on both databases."""

import threading
import time
from typing import Any

from sqlalchemy.orm import Session

from app.store.models import MeasurementRow, PruneJobRow
from app.store.repositories import Devices, Jobs, Measurements, Workers
from app.store.repositories.measurements import MOST_LOST
from app.store.sessions import Database
from tests.unit.app.store_rows import add_dataset, add_model

ONE, OTHER = "1" * 32, "2" * 32
LONG_S = 60.0


def add_job(session: Session) -> PruneJobRow:
    """A job that runs, and waits for `jetson`."""
    if Workers(session).get("w/0:1") is None:
        Workers(session).register("w/0:1", slot="w/0", device_id="local")
    job = Jobs(session).add(
        name="", spec={}, model_id=add_model(session), dataset_id=add_dataset(session), device_id="jetson"
    )
    assert Jobs(session).begin(job.id, "w/0:1")
    return job


def ask(session: Session, job: PruneJobRow, number: int = 1, digest: str = "d", **more: Any) -> MeasurementRow:
    fields: dict[str, Any] = {"device_id": "jetson", "kind": "step", "profile": {}, "payload": {}, "files": [], **more}
    return Measurements(session).ask(job, "profile", number, digest=digest, **fields)


def test_the_same_question_is_asked_once_and_another_takes_its_place(database: Database) -> None:
    with database.write() as session:
        job = add_job(session)
        first = ask(session, job)
        assert ask(session, job).id == first.id
        assert ask(session, job, digest="e").id != first.id
        assert ask(session, job, number=2).id not in (first.id, ask(session, job, digest="e").id)
        assert Measurements(session).get(first.id) is None


def test_a_measurement_goes_to_one_agent_until_its_lease_runs_out(database: Database) -> None:
    with database.write() as session:
        row = ask(session, add_job(session))
        other = ask(session, add_job(session), device_id="pi")
        leases = Measurements(session)
        assert leases.is_waiting("jetson", ONE)
        held = leases.lease("jetson", ONE, LONG_S)
        assert held is not None and held.id == row.id
        assert leases.lease("jetson", OTHER, LONG_S) is None and leases.held(row.id, OTHER) is None
        again = leases.lease("jetson", ONE, LONG_S)  # the first answer was lost
        assert again is not None and again.id == row.id and again.num_lost == 0
        leases.renew(again, 0.0, progress=0.5, seconds_left=1.0)
        assert other.status == "queued"
    time.sleep(0.01)
    with database.write() as session:
        leases = Measurements(session)
        assert leases.held(row.id, ONE) is not None  # nobody else has it
        taken = leases.lease("jetson", OTHER, LONG_S)
        assert taken is not None and (taken.id, taken.num_lost, taken.progress) == (row.id, 1, 0.5)
        assert leases.held(row.id, ONE) is None
        leases.finish(taken, {"step": 8}, None)
    with database.write() as session:
        leases = Measurements(session)
        done = leases.held(row.id, OTHER)
        assert done is not None and (done.status, done.result) == ("done", {"step": 8})
        assert not leases.is_waiting("jetson", ONE)


def test_one_that_loses_agent_after_agent_is_given_to_nobody(database: Database) -> None:
    with database.write() as session:
        row = ask(session, add_job(session))
    for number in range(MOST_LOST):
        with database.write() as session:
            assert Measurements(session).lease("jetson", f"{number:032x}", 0.0) is not None
        time.sleep(0.01)
    with database.write() as session:
        assert Measurements(session).lease("jetson", ONE, LONG_S) is None
        failed = Measurements(session).get(row.id)
        assert failed is not None and failed.status == "failed" and "agents were lost" in (failed.error or "")


def test_a_released_one_is_free_at_once_and_a_cancelled_job_wants_nothing(database: Database) -> None:
    with database.write() as session:
        job = add_job(session)
        row = ask(session, job)
        leases = Measurements(session)
        held = leases.lease("jetson", ONE, LONG_S)
        assert held is not None
        leases.release(held)
        assert leases.lease("jetson", OTHER, LONG_S) is not None
        Jobs(session).request_cancel(job.id)
        assert leases.held(row.id, OTHER) is None and not leases.is_waiting("jetson", OTHER)


def test_a_retry_asks_anew_and_a_finished_step_leaves_nothing(database: Database) -> None:
    with database.write() as session:
        job = add_job(session)
        first = ask(session, job)
        Jobs(session).fail(job.id, code="c", detail="d")
        assert Jobs(session).requeue(job.id) and Jobs(session).begin(job.id, "w/0:1")
        again = Jobs(session).get(job.id)
        assert again is not None
        assert not Measurements(session).is_waiting("jetson", ONE)
        second = ask(session, again)
        assert second.id != first.id and Measurements(session).get(first.id) is None
        Measurements(session).forget(again.workflow_id, "profile")
        assert Measurements(session).get(second.id) is None


def test_agents_that_ask_at_once_share_the_work(database: Database) -> None:
    with database.write() as session:
        job = add_job(session)
        wanted = {ask(session, job, number=number).id for number in range(6)}
    given: list[str] = []

    def take(agent: str) -> None:
        for _ in range(3):
            with database.write() as session:
                row = Measurements(session).lease("jetson", agent, LONG_S)
                assert row is not None
                Measurements(session).finish(row, {"step": 1}, None)
                given.append(row.id)

    threads = [threading.Thread(target=take, args=(agent,)) for agent in (ONE, OTHER)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(given) == 6 and set(given) == wanted


def test_a_device_is_online_while_an_agent_is_heard(database: Database) -> None:
    profiles = [{"hardware": "Jetson", "runtime": "onnxruntime", "runtime_version": "1"}]
    with database.write() as session:
        Devices(session).add("titanv", name="t", hardware="", runtime="imported", runtime_version="")
        row = Devices(session).enrol("jetson", profiles)
        assert (row.hardware, row.profiles) == ("Jetson", profiles) and row.last_seen_at is not None
        assert Devices(session).online(["jetson", "titanv"], LONG_S) == {"jetson"}
    time.sleep(0.02)
    with database.write() as session:
        assert Devices(session).online(["jetson"], 0.01) == set()
        Devices(session).seen("jetson")
        assert Devices(session).online(["jetson"], LONG_S) == {"jetson"}
