"""Requests that come at the same time are served together: in one transaction, with one statement a table."""

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool

MOST = 64
"""Requests of a batch."""


T = TypeVar("T")
R = TypeVar("R")


class Together(Generic[T, R]):
    """Serves one batch after the other, each in a thread; what comes meanwhile is the next batch, so nobody waits for company.

    Belongs to one event loop.
    """

    def __init__(self, serve: Callable[[Sequence[T]], Sequence[R | Exception]]) -> None:
        """`serve` answers a batch, in order, with results or with what is to be raised; what it raises is raised for all."""
        self._serve = serve
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._serving: asyncio.Task[None] | None = None

    async def __call__(self, one: T) -> R:
        """Return the result for `one`; raises what `serve` answers or raises."""
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((one, answer))
        if self._serving is None or self._serving.done():
            # A context of its own: the batch is no part of the request that came first.
            self._serving = asyncio.create_task(self._serve_all(), context=Context())
        return await answer

    async def _serve_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            try:
                results = await run_in_threadpool(self._serve, [one for one, _ in batch])
            except Exception as error:  # noqa: BLE001 - is raised for all of them
                results = [error] * len(batch)
            for (_, answer), result in zip(batch, results, strict=True):
                if answer.done():  # whoever asked is gone
                    continue
                if isinstance(result, Exception):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)
