"""Lets a worker look at an upload or a job and waits for its verdict, without holding a thread or a connection."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import structlog
from anyio import CancelScope, sleep
from starlette.concurrency import run_in_threadpool

from app.errors import ApiProblem
from app.queue import QueueError
from app.services import Services
from app.store.repositories import Holds, Workers
from secateur.schemas import ErrorDetail

log = structlog.get_logger(__name__)

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 0.5


async def require_worker(services: Services) -> None:
    """Return when a worker lives; raise 503 when none appears within `worker_wait_s`."""
    deadline = time.monotonic() + services.settings.worker_wait_s
    while not await run_in_threadpool(_has_worker, services):
        if time.monotonic() >= deadline:
            raise ApiProblem(
                "no_worker",
                "No worker is running to look at this. Start one with `secateur worker` (or `secateur serve`).",
                headers={"Retry-After": "5"},
            )
        await sleep(_LONGEST_PAUSE_S)


async def inspect(services: Services, kind: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    """The `ok` part of a worker's verdict.

    Raises ApiProblem: the worker's own problem, `check_timeout`, or `check_failed`.
    """
    timeout_s = services.settings.inspect_timeout_s
    inspect_id = await run_in_threadpool(services.queue.start_inspect, kind, payload, timeout_s=timeout_s)
    deadline = time.monotonic() + timeout_s
    pause_s = _FIRST_PAUSE_S
    verdict = None
    try:
        while time.monotonic() < deadline:
            verdict = await run_in_threadpool(services.queue.inspect_result, inspect_id)
            if verdict is not None:
                return _ok(verdict)
            await sleep(pause_s)
            pause_s = min(pause_s * 1.2, _LONGEST_PAUSE_S)
    except QueueError as error:
        log.error("check broke", action="inspect", kind=kind, inspect_id=inspect_id, error=str(error))
        raise ApiProblem(
            "check_failed", f"The worker broke while it looked at the {kind}. Its log says why."
        ) from error
    finally:
        if verdict is None:
            with CancelScope(shield=True):
                await run_in_threadpool(services.queue.cancel, inspect_id)
    raise ApiProblem("check_timeout", f"No worker finished the check within {timeout_s:g} s; all may be busy.")


@asynccontextmanager
async def produced(services: Services, kind: str, payload: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """As `inspect`; the files a worker left are held inside the `with` and deleted after it unless a row names them."""
    facts = await inspect(services, kind, payload)
    try:
        yield facts
    finally:
        with CancelScope(shield=True):
            await run_in_threadpool(_let_go, services, facts.get("files", {}))


def _let_go(services: Services, files: Mapping[str, Any]) -> None:
    for file in files.values():
        with services.database.write() as session:
            Holds(session).release(file["hold_id"])
        services.drop_blobs([file["sha256"]])


def _ok(verdict: Mapping[str, Any]) -> dict[str, Any]:
    problem = verdict.get("problem")
    if problem is None:
        ok: dict[str, Any] = verdict["ok"]
        return ok
    if not 400 <= problem.get("status", 422) < 500:
        # The worker's fault and not the user's: its words are for the log.
        raise QueueError(f"{problem['code']}: {problem['detail']}")
    raise ApiProblem(
        problem["code"],
        problem["detail"],
        status=problem.get("status"),
        title=problem.get("title"),
        errors=[ErrorDetail.model_validate(fault) for fault in problem.get("errors") or ()],
    )


def _has_worker(services: Services) -> bool:
    with services.database.read() as session:
        return bool(Workers(session).live(services.settings.worker_timeout_s))
