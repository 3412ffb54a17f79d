"""Streams of many watchers, fed by one reader: nothing is missed and nothing comes twice, whoever joins, lags or restarts."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import create_engine, event, make_url, text

from app.auth.keys import issue
from app.feed import MOST_WAITING, Feed, Watcher
from app.store.models import DEFAULT_PROJECT
from app.store.repositories import Events, Jobs, Keys
from app.store.sessions import Database
from secateur.access_schemas import Scope
from tests.integration.api_service import parse
from tests.integration.engine_service import ROOT, Service, eventually

HEADERS = {"Accept": "text/event-stream"}


@pytest.fixture
def service(tmp_path: Path, empty_url: str) -> Iterator[Service]:
    """A service without worker and API, on SQLite and on Postgres."""
    with opened(tmp_path, empty_url) as service:
        yield service


@contextlib.contextmanager
def opened(folder: Path, url: str) -> Iterator[Service]:
    service = Service(folder, url)
    try:
        yield service
    finally:
        service.close()


@pytest.fixture
def api(service: Service) -> Iterator[Service]:
    """The same with an API process."""
    with running_api(service):
        yield service


@contextlib.contextmanager
def running_api(service: Service) -> Iterator[None]:
    process = service.start_api()
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def append(service: Service, job_id: str, *lines: str) -> None:
    with service.database.write() as session:
        for line in lines:
            Events(session).append(job_id, "log", {"text": line})


def ids(service: Service, job_id: str) -> list[int]:
    with service.database.read() as session:
        return [row.id for row in Events(session).after(job_id, limit=100_000)]


class Reader(threading.Thread):
    """A client that follows a job to its end, hanging up after every `patience` events to come again after the last one."""

    def __init__(self, service: Service, job_id: str, patience: int) -> None:
        super().__init__()
        self.url = f"{service.api_url}/v1/prune-jobs/{job_id}/events"
        self.patience, self.ids, self.over = patience, [0], False
        self.start()

    def run(self) -> None:
        with httpx2.Client(timeout=60) as client:
            while not self.over:
                self._follow(client)

    def _follow(self, client: httpx2.Client) -> None:
        num = 0
        with client.stream("GET", self.url, headers={**HEADERS, "Last-Event-ID": str(self.ids[-1])}) as answer:
            assert answer.status_code == 200
            for line in answer.iter_lines():
                if line.startswith("id: "):
                    self.ids.append(int(line[4:]))
                    num += 1
                    if num == self.patience:
                        return
        self.over = True


def test_who_joins_at_any_moment_gets_every_event_once(api: Service) -> None:
    jobs = [api.submit() for _ in range(3)]
    command = [sys.executable, "-m", "tests.integration.event_writer", "60"]
    environment = {**os.environ, **api._environment, "PYTHONPATH": str(ROOT)}
    readers = first = [Reader(api, job_id, 10_000) for job_id in jobs]
    writers = [subprocess.Popen([*command, *order], env=environment, cwd=ROOT) for order in (jobs, jobs[::-1])]
    for turn in range(5):
        eventually(lambda least=15 * turn: all(len(one.ids) > least for one in first), "events")  # type: ignore[misc]
        readers = readers + [Reader(api, job_id, 7 + turn) for job_id in jobs]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    for job_id in jobs:
        api.cancel(job_id)
    for reader in readers:
        reader.join(60)
        assert reader.over
    for job_id in jobs:
        told = [one.ids[1:] for one in readers if job_id in one.url]
        assert len(ids(api, job_id)) == 122 and all(one == ids(api, job_id) for one in told)


def test_a_client_that_does_not_read_gets_everything_later(api: Service) -> None:
    job_id, other = api.submit(), api.submit()
    with socket.create_connection(("127.0.0.1", api.api_port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
        client.settimeout(60)
        path = f"/v1/prune-jobs/{job_id}/events"
        client.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode())
        assert client.recv(12) == b"HTTP/1.1 200"
        for _ in range(12):
            append(api, job_id, *["x" * 2000] * 300)
        api.cancel(job_id)
        api.cancel(other)
        answer = httpx2.get(f"{api.api_url}/v1/prune-jobs/{other}/events", headers=HEADERS, timeout=60)
        assert len(parse(answer.text)) == 2, "nobody else waits for it"
        read = b"".join(iter(lambda: client.recv(1 << 20), b""))
    told = [one["id"] for one in parse(read.partition(b"\r\n\r\n")[2].decode())]
    assert len(told) == 3602 and told == ids(api, job_id)


def test_streams_outlive_an_outage_of_the_database(tmp_path: Path, postgres_url: str) -> None:
    with opened(tmp_path, postgres_url) as service, running_api(service):
        job_id = service.submit()
        reader = Reader(service, job_id, 10_000)
        eventually(lambda: len(reader.ids) == 2, "the stream")
        url = make_url(postgres_url)
        engine = create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS false"))
            connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"),
                {"name": url.database},
            )

            def refused() -> bool:
                return httpx2.get(f"{service.api_url}/v1/prune-jobs/{job_id}", timeout=60).status_code == 503

            eventually(refused, "the outage")
            assert refused()
            connection.execute(text(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS true"))
        engine.dispose()
        append(service, job_id, "after it")
        service.cancel(job_id)
        reader.join(60)
        assert reader.over and reader.ids[1:] == ids(service, job_id)


def test_an_event_is_told_that_becomes_visible_after_a_later_one_of_another_job(
    tmp_path: Path, postgres_url: str
) -> None:
    with opened(tmp_path, postgres_url) as service:
        slow, quick = service.submit(), service.submit()

        async def watch() -> None:
            feed = Feed(service.database, 0.02, threading.Event())
            task = asyncio.create_task(feed.run())
            with feed.watch(slow, None, ids(service, slow)[-1]) as one, feed.watch(quick, None, 0) as other:
                with service.database.write() as session:
                    early = Events(session).append(slow, "log", {"text": "early"})
                    append(service, quick, "late")
                    assert ids(service, quick)[-1] > early
                    text = ""
                    while "late" not in text:
                        text += (await other.take(60) or b"").decode()
                    assert await one.take(0.1) == b": still here\n\n"
                assert f"id: {early}".encode() in (await one.take(60) or b"")
            task.cancel()

        asyncio.run(watch())


@contextlib.contextmanager
def counted(database: Database) -> Iterator[list[str]]:
    statements: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        statements.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    yield statements
    event.remove(database.engine, "before_cursor_execute", note)


async def look(feed: Feed) -> None:
    await feed._look()


def test_a_look_takes_three_statements_however_many_watch(service: Service) -> None:
    jobs = [service.submit() for _ in range(20)]
    with service.database.write() as session:
        made = [
            issue(session, project_id=DEFAULT_PROJECT, name="k", scopes={Scope.READ})[0].id for _ in range(len(jobs))
        ]

    async def looked(num: int) -> tuple[list[Watcher], list[str]]:
        feed = Feed(service.database, 60, threading.Event())
        with contextlib.ExitStack() as stack:
            pairs = zip(jobs[:num], made, strict=False)
            watchers = [stack.enter_context(feed.watch(job_id, key_id, 0)) for job_id, key_id in pairs for _ in "ab"]
            with counted(service.database) as statements:
                await look(feed)
        return watchers, [one for one in statements if "SELECT" in one]

    for num in (1, len(jobs)):
        watchers, statements = asyncio.run(looked(num))
        assert len(statements) == 3
        assert all(watcher.position == ids(service, watcher.job_id)[-1] for watcher in watchers)


def test_a_watcher_hears_the_end_of_its_job_and_nothing_after_that_of_its_key(service: Service) -> None:
    ended, gone, mine = service.submit(), service.submit(), service.submit()
    with service.database.write() as session:
        row, _ = issue(session, project_id=DEFAULT_PROJECT, name="k", scopes={Scope.READ})

    async def watch() -> None:
        feed = Feed(service.database, 60, threading.Event())
        with (
            feed.watch(ended, row.id, 0) as to_end, feed.watch(gone, None, 0) as to_go, feed.watch(mine, row.id, 0) as own,
            feed.watch(mine, None, 0) as anybodys,
        ):  # fmt: skip
            await look(feed)
            assert not any(one.closed for one in (to_end, to_go, own, anybodys))
            assert b'"queued"' in (await own.take(60) or b"")
            service.cancel(ended)
            with service.database.write() as session:
                session.delete(Jobs(session).get(gone))
            await look(feed)
            assert to_end.over and b'"cancelled"' in (await to_end.take(60) or b"")
            assert await to_end.take(60) is None and to_go.over
            with service.database.write() as session:
                Keys(session).revoke(row.id)
            append(service, mine, "a secret")
            await look(feed)
            assert own.over and await own.take(60) is None
            assert not anybodys.over and b"a secret" in (await anybodys.take(60) or b"")

    asyncio.run(watch())


def test_a_watcher_that_lags_is_let_go_where_it_stands(service: Service) -> None:
    job_id = service.submit()

    async def watch() -> None:
        feed = Feed(service.database, 60, threading.Event())
        with feed.watch(job_id, None, 0) as watcher:
            await look(feed)
            append(service, job_id, *"abc")
            await look(feed)
            stands_at = ids(service, job_id)[-1]
            append(service, job_id, *["x"] * MOST_WAITING)
            service.cancel(job_id)
            await look(feed)
            assert watcher.closed and not watcher.over and watcher.position == stands_at
            assert (await watcher.take(60) or b"").count(b"id: ") == 4
            assert await watcher.take(60) is None

    asyncio.run(watch())
