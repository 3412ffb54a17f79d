"""The child processes of a worker: one for each job, kept from step to step, and one for each inspection."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from app.tracing import Tracing
from workers.child import Order
from workers.process import Child, Ending, OnEvent, Stopping

WATCH_EVERY_S = 0.3


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long the runner waits for what."""

    stall_timeout_s: float
    """Silence of a child after which it is ended."""
    silence_timeout_s: float
    """Silence of this worker after which a child ends itself."""
    beat_s: float
    """How often a child is shown that this worker lives."""
    agent_silence_s: float
    """Silence of its agents after which a device is offline."""


class Children:
    """Starts children, keeps those of jobs between two steps, ends them all."""

    def __init__(self, timing: Timing, tracing: Tracing, *, draining: asyncio.Event, stopping: asyncio.Event) -> None:
        self._timing, self._tracing = timing, tracing
        self._draining, self._stopping = draining, stopping
        self._kept: dict[str, Child] = {}
        """By job."""

    async def carry_out(
        self, order: Order, take: OnEvent, check: Callable[[], None], job_id: str | None = None
    ) -> Ending:
        """Run a body until it ends, the worker stops (Stopping), or `check`, asked again and again, raises.

        A child that gave a job a result is kept for the job's next step, which need not load everything again.
        """

        async def watch() -> None:
            while not self._stopping.is_set():
                await asyncio.to_thread(check)
                await _wait(self._stopping, WATCH_EVERY_S)
            raise Stopping

        return await _first(self._run(order, take, job_id), watch())

    async def release(self, job_id: str) -> None:
        """End the child that a job has kept."""
        if child := self._kept.pop(job_id, None):
            await child.end()

    async def release_all(self) -> None:
        """End every child that is kept."""
        for job_id in tuple(self._kept):
            await self.release(job_id)

    async def _run(self, order: Order, take: OnEvent, job_id: str | None) -> Ending:
        timing = self._timing
        child = self._kept.pop(job_id, None) if job_id else None
        if child is None or not child.lives:
            child = await Child.start(
                beat_s=timing.beat_s, silence_timeout_s=timing.silence_timeout_s, draining=self._draining
            )
        ending = await child.run(order, take, stall_timeout_s=timing.stall_timeout_s, tracing=self._tracing)
        if ending.result is not None and job_id:
            self._kept[job_id] = child
        else:
            await child.end()
        return ending


async def _first(work: Coroutine[Any, Any, Ending], watch: Coroutine[Any, Any, None]) -> Ending:
    """Return what `work` returns, unless `watch` raises first; neither runs on when this returns."""
    tasks = asyncio.create_task(work), asyncio.create_task(watch)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            tasks[1].result()
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
