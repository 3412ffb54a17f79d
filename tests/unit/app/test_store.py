"""The other repositories on both databases."""

import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.store.base import database_now
from app.store.models import PruneJobRow, WorkerRow
from app.store.repositories import (
    Artifacts,
    Devices,
    Holds,
    Idempotency,
    Jobs,
    Luts,
    Models,
    Workers,
)
from app.store.sessions import Database
from tests.unit.app.store_rows import SHA, add_job, add_model, job, run_together


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
