"""The child process that runs the step bodies of one job: `python -m workers.child <seconds>`.

Its first line of stdin is a JSON `Order`, and so is the next one after each result; every other line is a sign of life of the
worker, or its answer to the question that the body has asked last, or `DRAIN`. A worker that says nothing for so many
seconds is stopped or cut off. It answers with JSON lines on stdout. It has no
database and no credentials, and it never outlives its worker: the kernel kills it when the worker dies, and a thread kills its
whole process group when stdin ends or falls silent.
"""

import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import logging
import os
import queue
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workers.context import Drained, Emit, StepContext, StepProblem, jsonable

PR_SET_PDEATHSIG = 1
LOCK_POLL_S = 0.1
WAITING_EVERY_S = 2.0
DRAIN = b'{"drain": true}'
"""Line by which the worker asks for an end at the next checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the worker asks of the child."""

    step: str
    """Module of the body to run."""
    package: str
    """Package of the step modules."""
    workdir: str
    cache: str
    """Folder shared by the steps of this worker; what it holds can be computed again."""
    spec: dict[str, Any]
    seed: int
    attempt: int
    device_lock: str | None
    """Lock file of the physical device to hold while the body runs; null where it neither measures nor trains."""
    traceparent: str = ""
    """W3C trace context that the child, and whatever it starts, works below; empty without tracing."""

    def to_line(self) -> bytes:
        """Return the order as one JSON line."""
        return json.dumps(asdict(self), allow_nan=False).encode() + b"\n"


def main() -> int:
    """Run the bodies that are ordered, until one ends without a result; return the exit code."""
    parent = os.getppid()
    die_with_parent(parent)
    wire, stdin = _take_stdout(), _take_stdin()
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    draining = threading.Event()
    threading.Thread(target=_guard, args=(stdin, float(sys.argv[1]), lines, draining), daemon=True).start()
    emit = _emitter(wire)
    _log_through(emit)
    code = None
    while code is None:
        code = _carry_out(Order(**json.loads(lines.get())), emit, lines, draining)
    return code


def _carry_out(order: Order, emit: Emit, lines: "queue.SimpleQueue[bytes]", draining: threading.Event) -> int | None:
    """Run one body; return the exit code, or None after a result."""
    if order.traceparent:
        os.environ["TRACEPARENT"] = order.traceparent
    os.chdir(order.workdir)
    lock = _DeviceLock(order.device_lock, emit)
    try:
        with _span(emit, "wait for the device"):
            lock.hold()
        with _span(emit, "load"):
            body = importlib.import_module(f"{order.package}.{order.step}")
        context = StepContext(
            workdir=Path(order.workdir),
            cache=Path(order.cache),
            spec=order.spec,
            seed=order.seed,
            attempt=order.attempt,
            emit=emit,
            ask=_asker(emit, lines, lock),
            draining=draining,
        )
        with _span(emit, "run"):
            result = body.run(context) or {}
        gc.collect()  # what a body leaves to the collector, the next one should not have to share memory with
        lock.free()
        emit({"event": "result", "result": {**result, "warnings": context.warned} if context.warned else result})
    except Drained:
        emit({"event": "drained"})
        return 0
    except StepProblem as problem:
        emit({"event": "problem", "code": problem.code, "detail": problem.detail, "errors": problem.errors})
        return 0
    except BaseException as error:  # noqa: BLE001 - whatever it is, the worker must hear of it
        traceback.print_exc()
        emit({"event": "crash", "type": type(error).__name__, "detail": str(error)})
        return 1
    return None


def die_with_parent(parent: int) -> None:
    """Ask the kernel for SIGKILL at the death of process `parent`; elsewhere than on Linux the guard thread does it alone."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call above
        os._exit(1)
    # When memory runs out the kernel should take the child, which can be explained, and not the worker.
    Path("/proc/self/oom_score_adj").write_text("500")


def _take_stdout() -> int:
    """Keep stdout for events alone: return its descriptor and send every stray print to stderr."""
    sys.stdout.flush()
    wire = os.dup(1)
    os.dup2(2, 1)
    return wire


def _take_stdin() -> int:
    """Return the descriptor on which the worker speaks; bodies and what they start read nothing."""
    stdin = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return stdin


@contextlib.contextmanager
def _span(emit: Emit, name: str) -> Iterator[None]:
    """Tell the worker how long the block took; it knows the trace and has the line to the collector."""
    start_ns = time.time_ns()
    try:
        yield
    finally:
        emit({"event": "span", "name": name, "start_ns": start_ns, "end_ns": time.time_ns()})


def _log_through(emit: Emit) -> None:
    """Send log records and warnings of the body and its libraries to the worker, which adds the job's ids."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            at = datetime.fromtimestamp(record.created, UTC).isoformat()
            text = self.format(record)
            emit({"event": "record", "level": record.levelno, "logger": record.name, "text": text, "at": at})

    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[Handler()])
    logging.captureWarnings(True)


def _guard(stdin: int, silence_timeout_s: float, said: "queue.SimpleQueue[bytes]", draining: threading.Event) -> None:
    """Hand on what the worker says; kill the process group, grandchildren included, when it is gone or silent."""
    data = b""
    while True:
        ready, _, _ = select.select([stdin], [], [], silence_timeout_s)
        if not ready:
            # A machine that was suspended, or a body that held the interpreter, wakes here too: look once more.
            ready, _, _ = select.select([stdin], [], [], 0.2)
        chunk = os.read(stdin, 1 << 16) if ready else b""
        if not chunk:
            os.killpg(os.getpgid(0), signal.SIGKILL)
        *lines, data = (data + chunk).split(b"\n")
        for line in filter(None, lines):
            if line == DRAIN:
                draining.set()
            else:
                said.put(line)


def _emitter(wire: int) -> Callable[[Mapping[str, Any]], None]:
    """Return a thread-safe function that writes one event as one line."""
    mutex = threading.Lock()

    def emit(event: Mapping[str, Any]) -> None:
        line = json.dumps(jsonable(event), allow_nan=False).encode() + b"\n"
        with mutex:
            while line:
                line = line[os.write(wire, line) :]

    return emit


def _asker(
    emit: Callable[[Mapping[str, Any]], None], answers: "queue.SimpleQueue[bytes]", lock: "_DeviceLock"
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Return a function that sends a question and waits for its answer, however long, with the device left to others."""

    def ask(question: Mapping[str, Any]) -> dict[str, Any]:
        lock.free()
        emit({**question, "event": "measure"})
        answer = json.loads(answers.get())
        lock.hold()
        if "problem" in answer:
            raise StepProblem(**answer["problem"])
        return dict(answer["result"])

    return ask


class _DeviceLock:
    """The lock of the physical device, or none; the kernel frees it however this process ends."""

    def __init__(self, path: str | None, emit: Callable[[Mapping[str, Any]], None]) -> None:
        self._path, self._emit = path, emit
        self._descriptor: int | None = None

    def hold(self) -> None:
        """Wait for the lock."""
        if self._path is None:
            return None
        Path(self._path).parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        said = 0.0
        while True:
            try:
                return fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() - said > WAITING_EVERY_S:
                    self._emit({"event": "waiting"})
                    said = time.monotonic()
                time.sleep(LOCK_POLL_S)

    def free(self) -> None:
        """Let another process have it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # Threads of native libraries must not delay the end: the result is already on the wire.
    os._exit(code)
