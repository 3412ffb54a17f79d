"""The API under many clients: jobs submitted, event streams followed."""

import argparse
import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

from app.store.repositories import Events, Jobs
from bench._figures import figure, percentile
from bench._load import Connection
from bench._stack import Stack, body_of, cpu_s, stack

SUBMITS_PER_S, SUBMIT_P95_MS = 200.0, 50.0
WATCH_LAG_P95_S = 1.0
WATCHERS_PER_JOB = 10


def submit(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Half the time at an even rate, half as fast as the clients can; latencies at an even rate count from when a request was due."""
    with stack(options.database) as made:
        body, keys = body_of(made.inputs()), [made.key(f"client {number}") for number in range(options.clients)]
        asyncio.run(_submits(made, keys, body, seconds=min(2.0, options.seconds), rate=options.rate))  # warms up
        even = asyncio.run(_submits(made, keys, body, seconds=options.seconds / 2, rate=options.rate))
        used_s, began = cpu_s(made.api_pid), time.monotonic()
        full = asyncio.run(_submits(made, keys, body, seconds=options.seconds / 2, rate=None))
        took_s, used_s = time.monotonic() - began, cpu_s(made.api_pid) - used_s
        refused = [one for one in (*even, *full) if one[0] != 202]
        yield figure("submit_per_s", len(full) / took_s, "1/s", least=SUBMITS_PER_S)
        yield figure("submit_p95_ms", percentile([ms for _, ms in even], 0.95), "ms", most=SUBMIT_P95_MS)
        yield figure("submit_p50_ms", percentile([ms for _, ms in even], 0.5), "ms")
        yield figure("submit_full_speed_p95_ms", percentile([ms for _, ms in full], 0.95), "ms")
        yield figure("submit_cpu_ms", 1e3 * used_s / max(1, len(full)), "ms")
        yield figure("submit_refused", len(refused), "", most=0)


async def _submits(
    made: Stack, keys: list[str], body: bytes, *, seconds: float, rate: float | None
) -> list[tuple[int, float]]:
    """Status and milliseconds of every request; `rate` is that of all clients together, none: as fast as they can."""
    answers: list[tuple[int, float]] = []
    begin = time.monotonic() + 0.5

    async def client(number: int, key: str) -> None:
        async with Connection(made.url, key) as connection:
            await asyncio.sleep(begin - time.monotonic())
            due, step = (begin + number / rate, len(keys) / rate) if rate else (begin, 0.0)
            while due < begin + seconds:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                status, _ = await connection.ask("POST", "/v1/prune-jobs", body)
                now = time.monotonic()
                answers.append((status, 1e3 * (now - due)))
                due = due + step if rate else now

    await asyncio.gather(*(client(number, key) for number, key in enumerate(keys)))
    return answers


def watch(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every watched job gets an event a second; every stream must get each of them once."""
    with stack(options.database) as made:
        jobs = _watched_jobs(made, max(1, options.watchers // WATCHERS_PER_JOB))
        committed, arrived = asyncio.run(_watched(made, jobs, options))
        lags = [at - committed[number] for of_one in arrived for number, at in of_one if number in committed]
        wrong = 0
        for index, of_one in enumerate(arrived):
            job_id = jobs[index % len(jobs)]
            with made.database.read() as session:
                wanted = [row.id for row in Events(session).after(job_id, limit=100_000)]
            wrong += [number for number, _ in of_one] != wanted
        yield figure("watch_lag_p95_s", percentile(lags, 0.95), "s", most=WATCH_LAG_P95_S)
        yield figure("watch_lag_p50_s", percentile(lags, 0.5), "s")
        yield figure("watch_lag_max_s", max(lags, default=float("inf")), "s")
        yield figure("watch_events_per_s", len(lags) / options.seconds, "1/s")
        yield figure("watch_streams_with_faults", wrong, "", most=0)


def _watched_jobs(made: Stack, num_jobs: int) -> list[str]:
    spec = made.inputs()
    named = {"model_id": spec["model_id"], "dataset_id": spec["dataset_id"], "device_id": "local"}
    with made.database.write() as session:
        return [Jobs(session).add(name="watched", spec=spec, **named).id for _ in range(num_jobs)]


async def _watched(
    made: Stack, jobs: list[str], options: argparse.Namespace
) -> tuple[dict[int, float], list[list[tuple[int, float]]]]:
    """When each event was committed, by its id, and what came to each stream and when."""
    arrived: list[list[tuple[int, float]]] = [[] for _ in range(options.watchers)]
    key = made.key("watcher")

    async def follow(connection: Connection, index: int) -> None:
        async for number, at in connection.events(f"/v1/prune-jobs/{jobs[index % len(jobs)]}/events"):
            arrived[index].append((number, at))

    async with AsyncExitStack() as on_exit:
        streams = []
        for index in range(options.watchers):
            connection = await on_exit.enter_async_context(Connection(made.url, key))
            streams.append(asyncio.create_task(follow(connection, index)))
        while not all(arrived):
            _raise_if_over(streams)
            await asyncio.sleep(0.1)
        committed = await asyncio.to_thread(_write_events, made, jobs, options.seconds)
        await asyncio.gather(*streams)
    return committed, arrived


def _raise_if_over(streams: list["asyncio.Task[None]"]) -> None:
    for stream in streams:
        if stream.done():
            stream.result()
            raise ConnectionError("a stream ended at its beginning")


def _write_events(made: Stack, jobs: list[str], seconds: float) -> dict[int, float]:
    """An event a second for every job, evenly; then the jobs end. Returns when each was committed, by its id."""
    committed: dict[int, float] = {}
    begin, num = time.monotonic(), 0
    while (due := begin + num / len(jobs)) < begin + seconds:
        time.sleep(max(0.0, due - time.monotonic()))
        with made.database.write() as session:
            number = Events(session).append(jobs[num % len(jobs)], "progress", {"progress": 0.5})
        committed[number] = time.time()
        num += 1
    for job_id in jobs:
        with made.database.write() as session:
            Jobs(session).request_cancel(job_id)
    return committed
