"""What goes and what stays: by age, and by who names it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, text, update

from app import pieces
from app.main import create_app
from app.migrate import migrate
from app.retention import Ages, collect, tend
from app.services import Services, open_services
from app.settings import Settings
from app.store.base import database_now
from app.store.models import DEFAULT_PROJECT, AuditRow
from app.store.repositories import Artifacts, Audit, Events, Jobs, Leases, Uploads

NEVER = Ages(jobs_s=None, checkpoints_s=1e6, uploads_s=1e6, margin_s=1e6, audit_s=None, workflows_s=1e6)
AT_ONCE = Ages(jobs_s=None, checkpoints_s=-60, uploads_s=-60, margin_s=-60, audit_s=None, workflows_s=-60)
ALL = replace(AT_ONCE, jobs_s=-60)


@pytest.fixture
def services(empty_url: str, tmp_path: Path) -> Iterator[Services]:
    """An empty service on SQLite and on Postgres."""
    settings = Settings(home=tmp_path / "home", database_url=empty_url)
    migrate(settings)
    services = open_services(settings)
    yield services
    services.close()


def add_job(services: Services, *, end: str = "", content: bytes = b"") -> str:
    """A job with a public file and a hidden one, ended as `end`."""
    with services.database.write() as session:
        kept, hidden = services.blobs.put_bytes(b"report" + content), services.blobs.put_bytes(b"checkpoint" + content)
        job = Jobs(session).add(name="", spec={}, model_id=None, dataset_id=None, device_id="local")  # type: ignore[arg-type]
        job_id = job.id
        for name, blob, is_hidden in (("report.json", kept, False), ("checkpoint/a/b", hidden, True)):
            Artifacts(session).save(
                job_id, name, sha256=blob.sha256, size_bytes=blob.size_bytes, media_type="a/b", hidden=is_hidden
            )
        if end:
            Jobs(session).begin(job_id, "w")
        if end == "succeeded":
            Jobs(session).succeed(job_id, outcome="budget_met", summary={})
        elif end == "failed":
            Jobs(session).fail(job_id, code="x", detail="y")
    return job_id


def gone(services: Services, ages: Ages, *, dry_run: bool = False) -> list[tuple[str, str]]:
    return [(one.kind, one.name) for one in collect(services, ages, dry_run=dry_run)]


def stored(services: Services) -> set[str]:
    return {one.sha256 for one in services.blobs.stored()}


def test_ended_jobs_go_with_their_events_and_files_and_no_others(services: Services) -> None:
    ends = ("", "running", "succeeded", "failed")
    jobs = {end: add_job(services, end=end, content=end.encode()) for end in ends}
    before = stored(services)
    assert gone(services, replace(NEVER, jobs_s=60)) == []
    expected = sorted([("job", jobs["succeeded"]), ("job", jobs["failed"])])
    assert sorted(gone(services, replace(NEVER, jobs_s=-60), dry_run=True)) == expected and stored(services) == before
    assert sorted(gone(services, replace(NEVER, jobs_s=-60))) == expected
    assert len(stored(services)) == len(before) - 4
    with services.database.read() as session:
        assert {row.id for row in Jobs(session).page().rows} == {jobs[""], jobs["running"]}
        assert Events(session).after(jobs["failed"]) == [] and Events(session).after(jobs["running"]) != []


def test_checkpoints_of_jobs_that_succeeded_go_and_no_others(services: Services) -> None:
    jobs = {end: add_job(services, end=end, content=end.encode()) for end in ("running", "succeeded", "failed")}
    assert gone(services, replace(NEVER, checkpoints_s=60)) == []
    assert gone(services, replace(NEVER, checkpoints_s=-60)) == [("checkpoints", jobs["succeeded"])]
    assert len(stored(services)) == 5
    with services.database.read() as session:
        assert [row.name for row in Artifacts(session).list(jobs["succeeded"])] == ["report.json"]
        assert Artifacts(session).list(jobs["succeeded"], hidden=True) == []
        assert Artifacts(session).list(jobs["failed"], hidden=True) != [], "it may be retried"


def test_a_file_that_two_jobs_left_stays_for_the_other(services: Services) -> None:
    add_job(services, end="succeeded"), add_job(services, end="")
    gone(services, ALL)
    assert len(stored(services)) == 2


def test_files_that_nothing_names_go_after_the_margin(services: Services) -> None:
    stray = services.blobs.put_bytes(b"stray")
    assert gone(services, NEVER) == []
    assert gone(services, AT_ONCE, dry_run=True) == [("file", stray.sha256)] and stored(services)
    assert gone(services, AT_ONCE) == [("file", stray.sha256)] and not stored(services)


def test_an_upload_in_progress_stays_and_an_abandoned_one_goes(services: Services) -> None:
    with services.database.write() as session:
        row = Uploads(session).add(project_id=DEFAULT_PROJECT, purpose="model", size_bytes=10, sha256=None)
    (services.blobs.uploads_folder / row.id).write_bytes(b"half")
    (services.blobs.uploads_folder / "upl_stray").write_bytes(b"half")
    assert gone(services, NEVER) == []
    assert gone(services, replace(NEVER, margin_s=-60)) == [("upload", "upl_stray")]
    assert gone(services, replace(NEVER, uploads_s=-60)) == [("upload", row.id)]
    assert list(services.blobs.uploads_folder.iterdir()) == []


def test_an_upload_that_somebody_has_or_went_on_with_since_it_was_listed_stays(services: Services) -> None:
    with services.database.write() as session:
        row = Uploads(session).add(project_id=DEFAULT_PROJECT, purpose="model", size_bytes=10, sha256=None)
    path = services.blobs.uploads_folder / row.id
    with pieces.taken(services, None, row.id):
        assert gone(services, replace(NEVER, uploads_s=-60, margin_s=-60)) == []
    assert not pieces.abandon(services, row.id, 60.0) and path.exists(), "it was touched a moment ago"
    assert pieces.abandon(services, row.id, -60.0) and not path.exists()
    assert pieces.abandon(services, row.id, -60.0), "it is gone"


def test_the_engines_ended_workflows_go(services: Services) -> None:
    inspect_id = services.queue.start_inspect("model", {}, timeout_s=60)
    assert gone(services, AT_ONCE) == [], "it has not ended"
    services.queue.cancel(inspect_id)
    assert gone(services, AT_ONCE, dry_run=True) == [("workflows", "of the job engine")]
    assert gone(services, NEVER) == []
    assert gone(services, AT_ONCE) == [("workflows", "of the job engine")] and gone(services, AT_ONCE) == []


def test_old_rows_of_the_audit_trail_go_in_batches_and_young_ones_stay(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.retention.FORGET_BATCH", 2)
    monkeypatch.setattr("app.store.repositories.audit.FORGET_BATCH", 2)
    with services.database.write() as session:
        for number in range(6):
            Audit(session).add(action=f"GET /{number}", status=403, request_id="r", address="a")
        session.execute(update(AuditRow).where(AuditRow.id <= 5).values(created_at=database_now(-7200)))
    year, hour = replace(NEVER, audit_s=365 * 86400.0), replace(NEVER, audit_s=3600.0)
    assert not list(collect(services, NEVER)) and not list(collect(services, year))
    assert [gone.num_files for gone in collect(services, hour, dry_run=True)] == [2]
    assert [(gone.kind, gone.num_files) for gone in collect(services, hour)] == [
        ("audit", 2),
        ("audit", 2),
        ("audit", 1),
    ]
    with services.database.read() as session:
        assert list(session.scalars(select(AuditRow.action))) == ["GET /5"]


def test_one_process_at_a_time_collects(services: Services) -> None:
    with services.database.write() as session:
        assert Leases(session).take("x", 60) and not Leases(session).take("x", 60) and Leases(session).take("y", -60)
        assert Leases(session).take("y", 60)


def test_the_service_collects_by_itself(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, gc_every_s=0.2)
    migrate(settings)
    with TestClient(create_app(settings)) as client:
        services: Services = client.app.state.services  # type: ignore[attr-defined]
        with services.database.write() as session:
            Jobs(session)
        tend(services, lambda: False)
        with services.database.read() as session:
            assert session.scalar(text("SELECT count(*) FROM lease")) == 1
