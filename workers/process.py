"""The worker's side of a child process: start it, feed it signs of life, read its events, end it for sure."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from app.store.disk import says_full
from app.tracing import Tracing
from workers.child import DRAIN, Order

log = structlog.get_logger(__name__)

LINE_LIMIT_BYTES = 64 << 20
TAIL_BYTES = 8 << 10
GRACE_S = 5.0
LOGGED_CHARACTERS = 2000
ROOT = Path(__file__).resolve().parent.parent

_SECRET = re.compile(
    r"^(SECATEUR|DBOS|PG|AWS)_|^PG[A-Z]+$|DATABASE_URL|PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIAL|API_?KEY|PRIVATE_KEY",
    re.IGNORECASE,
)

_FOR_CHILDREN = ("SECATEUR_TRAIN_", "SECATEUR_MEASURE_")
"""Settings of steps themselves, which a child sees."""

OnEvent = Callable[[dict[str, Any]], Awaitable[Mapping[str, Any] | None]]
"""Takes an event; what it returns is the answer to a question. While it works, the child's silence is not counted."""


class Stopping(Exception):
    """The worker is stopping: the child is gone, the work goes back to the queue."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a child ended: with a result, or with a code that says why not."""

    result: dict[str, Any] | None = None
    code: str = ""
    """Empty with a result; a StepProblem's code, `out_of_memory`, `step_crashed`, `step_killed` or `step_stalled`."""
    detail: str = ""
    errors: tuple[Mapping[str, str], ...] = ()
    problem: bool = False
    """True: the user's mistake (StepProblem), false: ours."""
    retryable: bool = False
    """True: somebody killed it or it fell silent, so another try may go well."""
    log_tail: str = ""
    """Last lines the child wrote to stderr."""


def child_env(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment a child may see: everything but settings of ours, database access and secrets."""
    env = {name: value for name, value in environ.items() if name.startswith(_FOR_CHILDREN) or not _SECRET.search(name)}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environ.get("PYTHONPATH")]))
    env["PYTHONUNBUFFERED"] = "1"
    return env


class Child:
    """A child process in a session of its own, which carries out one order after another.

    Must be used on an event loop whose thread lives as long as the worker: the kernel ties the child to that thread.
    """

    def __init__(self, process: asyncio.subprocess.Process, beat_s: float, draining: asyncio.Event) -> None:
        self._process = process
        self._tail = bytearray()
        self._tasks = [
            asyncio.create_task(_reap(process)),
            asyncio.create_task(_keep_tail(process, self._tail)),
            asyncio.create_task(_speak(process, beat_s, draining)),
        ]

    @classmethod
    async def start(cls, *, beat_s: float, silence_timeout_s: float, draining: asyncio.Event) -> "Child":
        """Return a child that waits for its first order; once `draining` is set it ends at its next checkpoint.

        It hears from this worker every `beat_s` seconds and ends itself after a silence of `silence_timeout_s`.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "workers.child", str(silence_timeout_s),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env=child_env(os.environ), start_new_session=True, limit=LINE_LIMIT_BYTES,
        )  # fmt: skip
        return cls(process, beat_s, draining)

    async def run(self, order: Order, on_event: OnEvent, *, stall_timeout_s: float, tracing: Tracing) -> Ending:
        """Return how the ordered body ended; raises Stopping when it ended at a checkpoint.

        Unless it is a result that is returned, the child and all it started are dead by then.
        """
        with tracing.span("child", order.traceparent, step=order.step, pid=self._process.pid) as span:
            order = replace(order, traceparent=span.traceparent)
            listen = _Listener(order.step, tracing, span.traceparent, on_event)
            self._tail.clear()
            last = None
            try:
                assert self._process.stdin is not None
                with contextlib.suppress(ConnectionError):
                    self._process.stdin.write(order.to_line())
                    await self._process.stdin.drain()
                last = await _listen(self._process, listen.take, stall_timeout_s)
                if last is None or last["event"] not in ("stalled", "result"):
                    await asyncio.wait(self._tasks[:2], timeout=GRACE_S)
            finally:
                if last is None or last["event"] != "result":
                    await self.end()
            if last is not None and last["event"] == "drained":
                raise Stopping
            tail = self._tail.decode(errors="replace")
            return _ending(last, self._process.returncode or 0, tail, stall_timeout_s)

    @property
    def lives(self) -> bool:
        """False once the process has ended."""
        return self._process.returncode is None

    async def end(self) -> None:
        """Kill the child and all it started; return when it is dead."""
        _kill(self._process.pid)
        await self._process.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@dataclass(frozen=True)
class _Listener:
    """Takes what every child says, whatever it runs: records and spans; the rest goes on to `on_event`."""

    step: str
    tracing: Tracing
    traceparent: str
    on_event: OnEvent

    async def take(self, event: dict[str, Any]) -> Mapping[str, Any] | None:
        match event:
            case {"event": "record", "level": level, "logger": name, "text": text}:
                log.log(level, text, action="child_record", step=self.step, child_logger=name, said_at=event["at"])
            case {"event": "span", "name": name, "start_ns": start_ns, "end_ns": end_ns}:
                self.tracing.past(name, self.traceparent, start_ns, end_ns, step=self.step)
            case _:
                return await self.on_event(event)
        return None


async def _listen(
    process: asyncio.subprocess.Process, on_event: OnEvent, stall_timeout_s: float
) -> dict[str, Any] | None:
    """Hand every event on and return the one that ends the step; None when the child just died."""
    assert process.stdout is not None
    while True:
        try:
            # Not `wait_for`, which forgets a cancellation that comes together with a line (Python 3.11).
            async with asyncio.timeout(stall_timeout_s):
                line = await process.stdout.readline()
        except TimeoutError:
            return {"event": "stalled"}
        if not line:
            return None
        try:
            event = json.loads(line)
        except ValueError:
            continue  # half a line, cut by the child's death
        if event["event"] in ("result", "problem", "crash", "drained"):
            return dict(event)
        answer = await on_event(event)
        if answer is not None:
            assert process.stdin is not None
            with contextlib.suppress(ConnectionError):
                process.stdin.write(json.dumps(answer, allow_nan=False).encode() + b"\n")  # `_speak` drains


async def _reap(process: asyncio.subprocess.Process) -> None:
    """When the child ends, end what it started: a grandchild would hold the pipes and the device open."""
    await process.wait()
    _kill(process.pid)


async def _keep_tail(process: asyncio.subprocess.Process, tail: bytearray) -> None:
    assert process.stderr is not None
    rest = b""
    while chunk := await process.stderr.read(1 << 16):
        tail += chunk
        del tail[:-TAIL_BYTES]
        *lines, rest = (rest + chunk).split(b"\n")
        for line in filter(None, lines):
            log.info(line.decode(errors="replace")[:LOGGED_CHARACTERS], action="child_output", pid=process.pid)
        rest = rest[-LOGGED_CHARACTERS:]


async def _speak(process: asyncio.subprocess.Process, beat_s: float, draining: asyncio.Event) -> None:
    assert process.stdin is not None
    with contextlib.suppress(ConnectionError):
        asked = False
        while True:
            await process.stdin.drain()
            if draining.is_set() and not asked:
                asked = True
                process.stdin.write(DRAIN + b"\n")
                continue
            if asked:
                await asyncio.sleep(beat_s)
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(beat_s):
                        await draining.wait()
            process.stdin.write(b"\n")


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def storage_full(detail: str) -> Ending:
    """Return the ending of a step for which there was no room: another try may find some."""
    return Ending(code="storage_full", detail=f"The worker's disk is full: {detail[:300]}", retryable=True)


def _ending(last: dict[str, Any] | None, returncode: int, tail: str, stall_timeout_s: float) -> Ending:
    match last:
        case {"event": "result", "result": result}:
            return Ending(result=result)
        case {"event": "problem", "code": code, "detail": detail, "errors": errors}:
            return Ending(code=code, detail=detail, errors=tuple(errors), problem=True)
        case {"event": "stalled"}:
            detail = f"The step said nothing for {stall_timeout_s:g} s and was ended."
            return Ending(code="step_stalled", detail=detail, retryable=True, log_tail=tail)
        case {"event": "crash", "type": "MemoryError"}:
            return Ending(code="out_of_memory", detail="The step ran out of memory.", log_tail=tail)
        case {"event": "crash", "type": kind, "detail": detail} if says_full(f"{kind}: {detail}"):
            return storage_full(detail)
        case {"event": "crash", "type": kind, "detail": detail}:
            return Ending(code="step_crashed", detail=f"{kind}: {detail}", log_tail=tail)
    if returncode < 0:
        name = signal.Signals(-returncode).name
        hint = "; most often the machine ran out of memory" if returncode == -signal.SIGKILL else ""
        detail = f"The step's process was ended by {name}{hint}."
        # SIGSEGV and its like are the step's own doing and would come again.
        retryable = -returncode in (signal.SIGKILL, signal.SIGTERM)
        return Ending(code="step_killed", detail=detail, retryable=retryable, log_tail=tail)
    return Ending(code="step_crashed", detail=f"The step's process ended with exit code {returncode}.", log_tail=tail)
