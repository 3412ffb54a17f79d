"""Every write of a worker is fenced."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.exc import StatementError

from app.store.blobs import StoreUnavailable
from app.store.repositories import Artifacts, Devices, Events, Jobs, Luts, Models
from lut.analytic import CRISP, analytic_profile
from tests.unit.workers.worker_store import PROFILE, Store
from workers.fence import Fenced, JobCancelled
from workers.journal import Journal, Kept
from workers.view import JobView

WRITES: list[Callable[[Journal, JobView, Path], None]] = [
    lambda journal, job, path: journal.check(job),
    lambda journal, job, path: journal.phase(job, "scoring"),
    lambda journal, job, path: journal.progress(job, 0.5),
    lambda journal, job, path: journal.event(job, "log", {"text": "x"}),
    lambda journal, job, path: journal.checkpoint(job, "work", "state", path, {"epoch": 1}),
    lambda journal, job, path: journal.finish_step(job, "work", {"summary": {"a": 1}}, [], 0.5),
    lambda journal, job, path: journal.recall_step(job, {}, 0.5),
    lambda journal, job, path: journal.succeed(job, "budget_met"),
    lambda journal, job, path: journal.fail(job, "x", "y", {}),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file a step left."""
    path = tmp_path / "file"
    path.write_bytes(b"state 1")
    return path


def test_a_zombie_writes_nothing(store: Store, file: Path) -> None:
    zombie, heir = store.add_worker("a/0:1"), store.add_worker("a/1:1")
    job = store.add_job()
    old = store.begin(zombie, job)
    store.begin(heir, job)
    before = asdict_of(store, job.id)
    for write in WRITES:
        with pytest.raises(Fenced):
            write(zombie, old, file)
    assert asdict_of(store, job.id) == before
    zombie.hand_back(old)
    assert store.job(job.id).worker_id == "a/1:1"


def test_of_two_executions_in_one_worker_the_older_one_writes_nothing(store: Store, file: Path) -> None:
    journal, job = store.add_worker("a/0:1"), store.add_job()
    old, new = store.begin(journal, job), store.begin(journal, job)
    for write in WRITES:
        with pytest.raises(Fenced):
            write(journal, old, file)
    journal.checkpoint(new, "work", "state", file, {})


def test_a_cancelled_job_is_written_no_more(store: Store, file: Path) -> None:
    journal = store.add_worker("a/0:1")
    job = store.add_job()
    view = store.begin(journal, job)
    with store.database.write() as session:
        Jobs(session).request_cancel(job.id)
    for write in WRITES:
        with pytest.raises(JobCancelled):
            write(journal, view, file)
    journal.finish_cancel(job.id, job.workflow_id)
    assert store.job(job.id).status == "cancelled"


def test_an_ended_job_is_not_begun_and_a_workflow_of_an_older_try_neither(store: Store) -> None:
    journal = store.add_worker("a/0:1")
    job = store.add_job()
    assert journal.begin(job.id, "another workflow", PROFILE) is None
    journal.succeed(store.begin(journal, job), "budget_met")
    assert journal.begin(job.id, job.workflow_id, PROFILE) is None
    assert store.job(job.id).attempt == 1


def test_a_view_names_the_known_table_of_the_jobs_own_profile(store: Store) -> None:
    journal = store.add_worker("a/0:1")
    table = store.blobs.put_bytes(b"{}")
    profile = replace(PROFILE, threads=2, batch=4)
    with store.database.write() as session:
        Luts(session).save(
            device_id="local", fingerprint=profile.fingerprint, profile=asdict(profile), blob_sha256=table.sha256,
            num_entries=3, num_signatures=1, step=8, noise=0.01, seconds=2.0,
        )  # fmt: skip
    view = store.begin(journal, store.add_job())
    assert view.inputs["known_table.json"] == table.sha256
    assert view.spec["profile"] == asdict(profile)
    other = store.begin(journal, store.add_job(batch=8))
    assert "known_table.json" not in other.inputs


def test_a_job_of_an_older_service_gets_the_defaults_of_options_it_does_not_know(store: Store) -> None:
    view = store.begin(store.add_worker("a/0:1"), store.add_job(seed=7))
    assert (view.spec["job"]["seed"], view.spec["job"]["sweep"], view.spec["job"]["patterns"]) == (7, 0, "none")


def test_a_view_names_the_newest_table_of_a_device_that_is_elsewhere(store: Store) -> None:
    journal = store.add_worker("a/0:1")
    phone = replace(PROFILE, hardware="phone", threads=4, batch=1)
    also = [{"device": "phone", "threads": 4, "batch": 1}, {"device": "local", "threads": 1, "batch": 4}]
    gone = store.add_job(also=also)
    assert journal.begin(gone.id, gone.workflow_id, PROFILE) is None
    assert store.job(gone.id).failure["code"] == "input_gone"  # type: ignore[index]
    for version in ("1", "2"):
        profile = replace(phone, runtime_version=version)
        table = store.blobs.put_bytes(version.encode())
        with store.database.write() as session:
            Devices(session).register("phone", name="phone", hardware="x", runtime="y", runtime_version="z")
            Luts(session).save(
                device_id="phone", fingerprint=profile.fingerprint, profile=asdict(profile), blob_sha256=table.sha256,
                num_entries=3, num_signatures=1, step=8, noise=0.01, seconds=2.0,
            )  # fmt: skip
    view = store.begin(journal, store.add_job(also=also))
    assert view.inputs["known_table_1.json"] == table.sha256
    here = replace(PROFILE, threads=1, batch=4)
    assert view.spec["also"] == [{"profile": asdict(profile), "here": False}, {"profile": asdict(here), "here": True}]
    assert "known_table_2.json" not in view.inputs


def test_a_view_of_a_modelled_accelerator_has_its_profile_and_no_table(store: Store) -> None:
    view = store.begin(
        store.add_worker("a/0:1"), store.add_job(also=[{"device": "analytic/crisp", "threads": 1, "batch": 8}])
    )
    profile = analytic_profile(CRISP, batch=8)
    assert view.spec["also"] == [{"profile": asdict(profile), "here": False}]
    assert set(view.inputs) == {"model", "dataset.zip"} and view.tables == ()


def test_a_job_on_a_device_with_agents_is_measured_there(store: Store) -> None:
    profile = replace(PROFILE, hardware="Jetson", runtime="onnxruntime", runtime_version="1")
    journal = store.add_worker("a/0:1")
    job = store.add_job(device="jetson", runtime=None, also=[{"device": "jetson", "threads": 1, "batch": 8}])
    with store.database.write() as session:
        Devices(session).enrol("jetson", [asdict(profile)])
        session.merge(job).device_id = "jetson"
    view = store.begin(journal, job)
    there = replace(profile, threads=2, batch=4)
    assert view.spec["profile"] == asdict(there) and view.spec["agents"] == "jetson" and not view.spec["absent"]
    assert view.spec["also"] == [{"profile": asdict(replace(profile, threads=1, batch=8)), "here": True}]
    told = journal.preflight_view({**job.spec, "runtime": "openvino"}, PROFILE)
    assert told.spec["absent"] == ["openvino cannot run on jetson: its agent has onnxruntime."]


def test_a_job_whose_model_is_gone_fails_and_says_so(store: Store) -> None:
    journal = store.add_worker("a/0:1")
    job = store.add_job()
    with store.database.write() as session:
        row = Models(session).get(store.inputs["model_id"])
        assert row is not None
        Models(session).delete(row)
    assert journal.begin(job.id, job.workflow_id, PROFILE) is None
    failure = store.job(job.id).failure
    assert failure is not None and failure["code"] == "input_gone"


def test_a_step_is_recorded_with_its_files_figures_and_table_or_not_at_all(store: Store, file: Path) -> None:
    journal = store.add_worker("a/0:1")
    view = store.begin(journal, store.add_job())
    files = [Kept(name="table.json", blob=store.blobs.put_file(file), source=file, hidden=False)]
    lut = {
        "file": "table.json",
        "profile": asdict(PROFILE),
        "num_entries": 1,
        "num_signatures": 1,
        "step": 8,
        "noise": 0.1,
    }
    with pytest.raises(TypeError):
        journal.finish_step(view, "profile", {"luts": [lut]}, files, 0.5)
    assert journal.artifacts(view) == {} and store.job(view.id).progress == 0.0
    journal.finish_step(view, "profile", {"luts": [{**lut, "seconds": 1.0}], "summary": {"a": 1}}, files, 0.5)
    journal.finish_step(view, "score", {"summary": {"b": 2}}, [], 0.6)
    assert journal.artifacts(view) == {"table.json": files[0].blob.sha256}
    assert (store.job(view.id).progress, store.job(view.id).summary) == (0.6, {"a": 1, "b": 2})
    with store.database.read() as session:
        row = Luts(session).find("local", PROFILE.fingerprint)
        assert row is not None and row.blob_sha256 == files[0].blob.sha256


def test_a_new_checkpoint_replaces_the_old_one_and_its_file(store: Store, file: Path) -> None:
    journal = store.add_worker("a/0:1")
    view = store.begin(journal, store.add_job())
    journal.checkpoint(view, "work", "state", file, {})
    first = journal.artifacts(view)["checkpoint/work/state"]
    journal.checkpoint(view, "work", "state", file, {})
    assert store.blobs.exists(first), "an equal checkpoint is the same file"
    file.write_bytes(b"state 2")
    journal.checkpoint(view, "work", "state", file, {})
    second = journal.artifacts(view)["checkpoint/work/state"]
    assert first != second and not store.blobs.exists(first) and store.blobs.exists(second)
    journal.finish_step(view, "work", {}, [], 1.0)
    assert journal.artifacts(view) == {} and not store.blobs.exists(second)


def test_a_checkpoint_and_its_figures_are_recorded_together_or_not_at_all(store: Store, file: Path) -> None:
    journal = store.add_worker("a/0:1")
    view = store.begin(journal, store.add_job())
    with pytest.raises((StatementError, TypeError)):
        journal.checkpoint(view, "work", "state", file, {"epoch": object()})
    assert journal.artifacts(view) == {}, "a kill between the two would have lost the epoch's figures"
    journal.checkpoint(view, "work", "state", file, {"epoch": 1})
    assert list(journal.artifacts(view)) == ["checkpoint/work/state"]
    with store.database.read() as session:
        told = [event.data for event in Events(session).after(view.id) if event.kind == "metric"]
    assert told == [{"epoch": 1}]


@pytest.mark.parametrize("made", [True, False])
@pytest.mark.parametrize("empty_url", [pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True)
def test_a_commit_whose_answer_is_lost_is_not_made_twice(store: Store, file: Path, made: bool) -> None:
    journal = store.add_worker("a/0:1")
    view = store.begin(journal, store.add_job())
    dialect = store.database.engine.dialect
    commit, losses = dialect.do_commit, []

    def lose(connection: Any) -> None:
        if not losses:
            losses.append(connection)
            if made:
                commit(connection)
            connection.dbapi_connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        commit(connection)

    dialect.do_commit = lose  # type: ignore[method-assign]
    journal.checkpoint(view, "work", "state", file, {"epoch": 1})
    assert losses
    with store.database.read() as session:
        told = [event.data for event in Events(session).after(view.id) if event.kind == "metric"]
    assert told == [{"epoch": 1}]


def test_a_bucket_that_is_away_after_the_commit_does_not_repeat_it(
    store: Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = store.add_worker("a/0:1")
    view = store.begin(journal, store.add_job())
    journal.checkpoint(view, "work", "state", file, {"epoch": 1})
    delete, failures = store.blobs.delete, []

    def fail_once(sha256: str) -> bool:
        if not failures:
            failures.append(sha256)
            raise StoreUnavailable("away")
        return delete(sha256)

    monkeypatch.setattr(store.blobs, "delete", fail_once)
    file.write_bytes(b"state 2")
    journal.checkpoint(view, "work", "state", file, {"epoch": 2})
    assert failures and not store.blobs.exists(failures[0])
    with store.database.read() as session:
        assert [e.data for e in Events(session).after(view.id) if e.kind == "metric"] == [{"epoch": 1}, {"epoch": 2}]


def test_a_checkpoint_equal_to_a_needed_file_leaves_that_file(store: Store, file: Path) -> None:
    journal = store.add_worker("a/0:1")
    view = store.begin(journal, store.add_job())
    file.write_bytes(b"weights")
    journal.checkpoint(view, "work", "state", file, {})
    file.write_bytes(b"other")
    journal.checkpoint(view, "work", "state", file, {})
    assert store.blobs.exists(view.inputs["model"])


def test_progress_never_goes_back(store: Store) -> None:
    journal = store.add_worker("a/0:1")
    view = store.begin(journal, store.add_job())
    for progress in (0.2, 0.5, 0.3, 0.6):
        journal.progress(view, progress)
    with store.database.read() as session:
        events = [event.data["progress"] for event in Events(session).after(view.id) if event.kind == "progress"]
    assert events == [0.2, 0.5, 0.6]


def asdict_of(store: Store, job_id: str) -> tuple[object, ...]:
    """Everything the store holds of the job."""
    with store.database.read() as session:
        row = Jobs(session).get(job_id)
        assert row is not None
        columns = [getattr(row, column.name) for column in row.__table__.columns]
        return (columns, len(Events(session).after(job_id)), len(Artifacts(session).list(job_id, hidden=True)))
