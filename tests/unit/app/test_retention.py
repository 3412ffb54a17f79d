"""What goes and what stays: by age, by who names it, and whatever order things happen and processes die in."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest
from fastapi import Request
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, make_url, select, text, update
from sqlalchemy.orm import Session

from app import pieces
from app.api.models import ModelForm, delete_model
from app.auth.access import Access
from app.auth.limits import RateLimiter
from app.auth.trail import Trail
from app.errors import ApiProblem
from app.main import create_app
from app.migrate import migrate
from app.queue import Queue
from app.retention import Ages, Gone, collect, tend
from app.services import Services, open_services
from app.settings import Settings
from app.sniff import check_model_head
from app.store.base import database_now
from app.store.blobs import LocalBlobs
from app.store.models import DEFAULT_PROJECT, AuditRow, BlobHoldRow, PruneJobRow
from app.store.repositories import Artifacts, Audit, Events, Jobs, Leases, Models, Uploads
from app.store.repositories.holds import NAMING
from app.store.sessions import Database
from app.uploads import received
from secateur.access_schemas import Limits, Scope

ANYBODY = Access(
    project_id=DEFAULT_PROJECT,
    scopes=frozenset({Scope.ADMIN}),
    limits=Limits(),
    key=None,
    root_id="",
    by_cookie=False,
    trail=Trail(address="", request_id="", action="test"),
)
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


# Random histories


class Died(BaseException):
    """The process was killed: nothing that follows in it happens either."""


class Fuse:
    """Kills the process at its n-th effect."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.blown = False

    def step(self) -> None:
        """One effect, or one that is about to be."""
        if self.left is not None:
            self.left -= 1
            self.blown = self.blown or self.left < 0
        if self.blown:
            raise Died


class MortalDatabase(Database):
    """Dies before a transaction, before its commit, or after it."""

    fuse: Fuse

    @contextmanager
    def write(self) -> Iterator[Session]:
        self.fuse.step()
        with super().write() as session:
            yield session
            self.fuse.step()
        self.fuse.step()


class MortalBlobs(LocalBlobs):
    """Dies before a file is named or deleted, or after it."""

    fuse: Fuse

    def adopt(self, path: Path, sha256: str) -> None:
        self.fuse.step()
        super().adopt(path, sha256)
        self.fuse.step()

    def delete(self, sha256: str) -> bool:
        self.fuse.step()
        gone = super().delete(sha256)
        self.fuse.step()
        return gone


class History:
    """A service to which things happen; every process of it may die at any moment."""

    def __init__(self, url: str, home: Path) -> None:
        settings = Settings(home=home, database_url=url)
        self.fuse = Fuse()
        database, blobs = MortalDatabase(url), MortalBlobs(settings.blobs_folder)
        database.fuse = blobs.fuse = self.fuse
        queue = Queue(settings.url, version="1")
        self.services = Services(settings=settings, database=database, blobs=blobs, queue=queue, limiter=RateLimiter())

    def happens(self, kind: str, number: int, dies_after: int | None) -> None:
        """One thing, begun by a process that may die in the middle of it."""
        self.fuse.left, self.fuse.blown = dies_after, False
        try:
            getattr(self, kind)(number)
        except Died:
            pass
        finally:
            self.fuse.left, self.fuse.blown = None, False
        self.check()

    def check(self) -> None:
        """No row names a file that is missing."""
        with self.services.database.read() as session:
            for column in NAMING:
                if column.class_ is not BlobHoldRow:
                    missing = [sha for sha in session.scalars(select(column)) if not self.services.blobs.exists(sha)]
                    assert not missing, column

    def upload(self, number: int) -> None:
        """A file that came in pieces becomes a model."""
        content = (100).to_bytes(8, "little") + b'{"a": %d}' % number
        with self.services.database.write() as session:
            row = Uploads(session).add(
                project_id=DEFAULT_PROJECT, purpose="model", size_bytes=len(content), sha256=None
            )
        (self.services.blobs.uploads_folder / row.id).write_bytes(content)
        with self.services.database.write() as session:
            Uploads(session).advance(row.id, len(content))
        body = json.dumps({"upload_id": row.id, "name": "m", "arch": "onnx"}).encode()
        self._receive("application/json", body)

    def post(self, number: int) -> None:
        """A file that came with its form becomes a model."""
        parts = {"name": b"m", "arch": b"onnx", "file": (100).to_bytes(8, "little") + b'{"a": %d}' % number}
        head = b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
        body = b"".join(head % (name.encode(), value) for name, value in parts.items()) + b"--b--\r\n"
        self._receive("multipart/form-data; boundary=b", body)

    def _receive(self, media_type: str, body: bytes) -> None:
        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def work() -> None:
            scope = {"type": "http", "method": "POST", "headers": [(b"content-type", media_type.encode())]}
            async with received(
                Request(scope, receive), self.services, ANYBODY, ModelForm,
                max_bytes=10_000, check_head=check_model_head, purpose="model",
            ) as upload:  # fmt: skip
                with self.services.database.write() as session:
                    Models(session).add(
                        name="m", arch="onnx", sha256=upload.blob.sha256, size_bytes=upload.blob.size_bytes,
                        num_parameters=1, num_outputs=1, input_shape=None, class_names=None,
                    )  # fmt: skip

        anyio.run(work)

    def submit(self, number: int) -> None:
        """A job on some model begins and leaves files."""
        with self.services.database.read() as session:
            models = Models(session).page().rows
        with self.services.database.write() as session:
            model = Models(session).get(models[number % len(models)].id, share=True) if models else None
            if model is not None:
                job = Jobs(session).add(name="", spec={}, model_id=model.id, dataset_id=None, device_id="local")
                Jobs(session).begin(job.id, "w")

    def work(self, number: int) -> None:
        """A step leaves files, as a worker stores and records them."""
        from workers.journal import Journal, Kept

        job = self._running(number)
        if job is None:
            return
        journal = Journal(self.services.database, self.services.blobs, "w", "local", {})
        path = self.services.settings.home / "output"
        path.write_bytes(b"output %d" % (number % 3))
        kept = Kept(name=f"{number % 2}", blob=self.services.blobs.put_file(path), source=path, hidden=number % 4 > 1)
        with self.services.database.write() as session:
            before = Artifacts(session).get(job.id, kept.name)
            old = before.sha256 if before else None
            journal.record(session, job, kept)  # type: ignore[arg-type]
        if old not in (None, kept.blob.sha256):
            journal.drop([str(old)])

    def end(self, number: int) -> None:
        """A job ends."""
        job = self._running(number)
        if job is not None:
            with self.services.database.write() as session:
                if number % 2:
                    Jobs(session).succeed(job.id, outcome="budget_met", summary={})
                else:
                    Jobs(session).fail(job.id, code="x", detail="y")

    def delete(self, number: int) -> None:
        """A model is deleted."""
        with self.services.database.read() as session:
            models = Models(session).page().rows
        if models:
            try:
                delete_model(models[number % len(models)].id, ANYBODY, self.services)
            except ApiProblem as problem:
                assert problem.problem.code == "model_in_use"

    def collect(self, number: int) -> None:
        """What is old goes, with or without a margin."""
        for _ in collect(self.services, (NEVER, AT_ONCE, ALL)[number % 3]):
            pass

    def _running(self, number: int) -> PruneJobRow | None:
        with self.services.database.read() as session:
            rows = [row for row in Jobs(session).page().rows if row.status == "running"]
        return rows[number % len(rows)] if rows else None

    def close(self) -> None:
        """Give back every connection."""
        self.services.close()


EVENTS = st.tuples(
    st.sampled_from(["upload", "post", "submit", "work", "work", "end", "delete", "collect"]),
    st.integers(0, 11),
    st.none() | st.integers(0, 12),
)


@hypothesis_settings(max_examples=40, deadline=None)
@given(events=st.lists(EVENTS, min_size=4, max_size=14))
def test_whoever_dies_when_no_row_loses_its_file_and_no_file_is_left_over_sqlite(
    events: list[tuple[str, int, int | None]],
) -> None:
    with TemporaryDirectory() as folder:
        live(f"sqlite:///{folder}/home/secateur.db", Path(folder, "home"), events)


@pytest.mark.postgres
def test_whoever_dies_when_no_row_loses_its_file_and_no_file_is_left_over_postgres(postgres_url: str) -> None:
    @hypothesis_settings(max_examples=8, deadline=None)
    @given(events=st.lists(EVENTS, min_size=4, max_size=14))
    def lives(events: list[tuple[str, int, int | None]]) -> None:
        engine = create_engine(make_url(postgres_url))
        with engine.begin() as connection:
            for table in ("model", "prune_job", "upload", "blob_hold"):
                connection.execute(text(f"TRUNCATE {table} CASCADE"))
        engine.dispose()
        with TemporaryDirectory() as folder:
            live(postgres_url, Path(folder, "home"), events)

    with TemporaryDirectory() as folder:
        migrate(Settings(home=Path(folder), database_url=postgres_url))
    lives()


def live(url: str, home: Path, events: list[tuple[str, int, int | None]]) -> None:
    """Let it all happen; then no row lacks its file, and after a collection without margins no file lacks its row."""
    migrate(Settings(home=home, database_url=url))
    history = History(url, home)
    try:
        for event in events:
            history.happens(*event)
        left: list[Gone] = list(collect(history.services, ALL))
        history.check()
        with history.services.database.read() as session:
            named = {sha256 for column in NAMING for sha256 in session.scalars(select(column))}
        assert stored(history.services) == named, left
        assert not [*history.services.blobs.uploads_folder.iterdir(), *(home / "blobs" / "tmp").iterdir()]
    finally:
        history.close()
