"""Whatever order things happen and processes die in: no row loses its file, and no file is left over."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, make_url, select, text
from sqlalchemy.orm import Session

from app.api.models import ModelForm, delete_model
from app.auth.access import Access
from app.auth.limits import RateLimiter
from app.auth.trail import Trail
from app.errors import ApiProblem
from app.migrate import migrate
from app.queue import Queue
from app.retention import Gone, collect
from app.services import Services
from app.settings import Settings
from app.sniff import check_model_head
from app.store.blobs import LocalBlobs
from app.store.models import DEFAULT_PROJECT, BlobHoldRow, PruneJobRow
from app.store.repositories import Artifacts, Jobs, Models, Uploads
from app.store.repositories.holds import NAMING
from app.store.sessions import Database
from app.uploads import received
from secateur.access_schemas import Limits, Scope
from tests.unit.app.test_retention import ALL, AT_ONCE, NEVER, stored

ANYBODY = Access(
    project_id=DEFAULT_PROJECT,
    scopes=frozenset({Scope.ADMIN}),
    limits=Limits(),
    key=None,
    root_id="",
    by_cookie=False,
    trail=Trail(address="", request_id="", action="test"),
)


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
