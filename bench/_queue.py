"""Jobs through workers: a long queue drained, and a steady load over a long time."""

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from sqlalchemy import func, select

from app.scheduling import schedule
from app.store.models import PruneJobRow
from app.store.repositories import Jobs
from app.store.repositories.jobs import ACTIVE
from bench._figures import figure, percentile
from bench._load import Connection
from bench._stack import Stack, body_of, rss_mib, stack

NUM_WORKERS = 2
SMALL_SUBMITTERS = 9
SMALL_SHARE = 0.01
WORST_PLACE = 1.5
GROWTH_PERCENT = 5.0
SOAK_JOBS_PER_S = 0.5
SOAK_STREAMS = 20
LOOK_S = 1.0


def drain(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One submitter has all but 9 % of the jobs and came first; nine have 1 % each. All are queued before the workers start."""
    with stack(options.database) as made:
        _queue(made, options.jobs)
        began = time.monotonic()
        with made.workers(NUM_WORKERS):
            while _num_active(made) and time.monotonic() < began + options.seconds:
                time.sleep(LOOK_S)
        took_s = time.monotonic() - began
        rows = _rows(made)
        begun = [row for row in rows if row.started_at is not None]
        waits = [(row.started_at - row.created_at).total_seconds() for row in begun if row.started_at is not None]
        done = [row for row in begun if (row.status, row.attempt) == ("succeeded", 1)]
        yield figure("drain_jobs_per_s", len(done) / took_s, "1/s")
        yield figure("drain_not_done_once", len(rows) - len(done), "", most=0)
        yield figure("drain_worst_place", _worst_place(begun), "", most=WORST_PLACE)
        yield figure("drain_wait_p50_s", percentile(waits, 0.5), "s")
        yield figure("drain_wait_max_s", max(waits, default=float("inf")), "s")


def _queue(made: Stack, num_jobs: int) -> None:
    spec = made.inputs() | {"threads": 1, "batch": 1, "seed": 0}
    few = max(1, int(num_jobs * SMALL_SHARE))
    many = max(0, num_jobs - SMALL_SUBMITTERS * few)
    named = {"model_id": spec["model_id"], "dataset_id": spec["dataset_id"], "device_id": "local"}
    for submitter, count in (("big", many), *((f"small{number}", few) for number in range(SMALL_SUBMITTERS))):
        for _ in range(count):
            with made.database.write() as session:
                job = Jobs(session).add(name=submitter, spec=spec, submitter=submitter, **named)
                schedule(session, made.queue, job)


def _worst_place(begun: list[PruneJobRow]) -> float:
    """The worst of what small submitters got: place of their k-th job over 10 k, where turns would have put it; 1 is fair."""
    counts: Counter[str] = Counter()
    worst = 0.0
    # Jobs on two workers begin side by side: a place may be one too far.
    for place, row in enumerate(sorted(begun, key=lambda row: (str(row.started_at), row.id))):
        counts[row.submitter] += 1
        if row.submitter != "big":
            worst = max(worst, (place + 1 - NUM_WORKERS) / ((SMALL_SUBMITTERS + 1) * counts[row.submitter]))
    return worst


def _num_active(made: Stack) -> int:
    with made.database.read() as session:
        return session.scalar(select(func.count()).where(PruneJobRow.status.in_(ACTIVE))) or 0


def _rows(made: Stack) -> list[PruneJobRow]:
    with made.database.read() as session:
        return list(session.scalars(select(PruneJobRow)))


def soak(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Jobs come, are watched to their end, listed and looked at, for the whole time; memory at its end beside that after a fifth."""
    with stack(options.database) as made, made.workers(1):
        load = _Load(made, {"api": made.api_pid, "worker": made.worker_pids[0]}, options.seconds)
        asyncio.run(load.run())
        for name in load.pids:
            of_one = [sample[name] for sample in load.samples]
            tenth = max(1, len(of_one) // 10)
            first, last = (sum(part) / len(part) for part in (of_one[2 * tenth : 3 * tenth] or of_one, of_one[-tenth:]))
            yield figure(f"soak_{name}_growth_percent", 100 * (last / first - 1), "%", most=GROWTH_PERCENT)
            yield figure(f"soak_{name}_mib", last, "MiB")
        yield figure("soak_requests", load.statuses.total(), "")
        failed = sum(count for status, count in load.statuses.items() if status >= 400)
        yield figure("soak_failed_requests", failed, "", most=0)


class _Load:
    """The steady load, and what it found."""

    def __init__(self, made: Stack, pids: dict[str, int], seconds: float) -> None:
        self.pids, self._url, self._key = pids, made.url, made.key("soak")
        self._body = body_of(made.inputs())
        self._until = time.monotonic() + seconds
        self._jobs: list[str] = []
        self.samples: list[dict[str, float]] = []
        self.statuses: Counter[int] = Counter()

    async def run(self) -> None:
        """Load it until the time is over."""
        streams = [asyncio.create_task(self._follow(number)) for number in range(SOAK_STREAMS)]
        await asyncio.gather(self._submit(), self._measure())
        for stream in streams:
            stream.cancel()
        for error in await asyncio.gather(*streams, return_exceptions=True):
            if isinstance(error, Exception):
                raise error

    async def _submit(self) -> None:
        asked = (("POST", "/v1/prune-jobs", self._body), ("GET", "/v1/prune-jobs", b""), ("GET", "/metrics", b""))
        async with Connection(self._url, self._key) as connection:
            while time.monotonic() < self._until:
                for method, path, body in asked:
                    status, answer = await connection.ask(method, path, body)
                    self.statuses[status] += 1
                    if method == "POST":
                        self._jobs.append(json.loads(answer)["id"])
                await asyncio.sleep(1 / SOAK_JOBS_PER_S)

    async def _follow(self, number: int) -> None:
        """Streams of recent jobs, one after the other, each to its end."""
        while True:
            await asyncio.sleep(1.0)
            if self._jobs:
                async with Connection(self._url, self._key) as connection:
                    path = f"/v1/prune-jobs/{self._jobs[-1 - number % len(self._jobs)]}/events"
                    async for _ in connection.events(path):
                        pass

    async def _measure(self) -> None:
        while time.monotonic() < self._until:
            await asyncio.sleep(LOOK_S)
            self.samples.append({name: rss_mib(pid) for name, pid in self.pids.items()})
