"""The child process that runs one step body: `python -m workers.child <step>`.

Its first line of stdin is the JSON `Order`; every later line is a sign of life of the worker. It answers with JSON
lines on stdout. It has no database and no credentials, and it never outlives its worker: the kernel kills it when the
worker dies, and a thread kills its whole process group when stdin ends or falls silent.
"""

import ctypes
import fcntl
import importlib
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workers.context import StepContext, StepProblem, jsonable

PR_SET_PDEATHSIG = 1
LOCK_POLL_S = 0.1
WAITING_EVERY_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the worker asks of the child."""

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
    silence_timeout_s: float
    """The child ends itself when the worker has said nothing for this long (stopped or cut off)."""

    def to_line(self) -> bytes:
        """Return the order as one JSON line."""
        return json.dumps(asdict(self), allow_nan=False).encode() + b"\n"


def main() -> int:
    """Run the step named on the command line; return the exit code."""
    step = sys.argv[1]
    parent = os.getppid()
    _die_with_parent(parent)
    wire = _take_stdout()
    order, stdin = _read_order()
    threading.Thread(target=_guard, args=(stdin, order.silence_timeout_s), daemon=True).start()
    emit = _emitter(wire)
    try:
        lock = _hold_device(order.device_lock, emit)
        body = importlib.import_module(f"{order.package}.{step}")
        context = StepContext(
            workdir=Path(order.workdir),
            cache=Path(order.cache),
            spec=order.spec,
            seed=order.seed,
            attempt=order.attempt,
            emit=emit,
        )
        result = body.run(context) or {}
        emit({"event": "result", "result": {**result, "warnings": context.warned} if context.warned else result})
        if lock is not None:
            os.close(lock)
    except StepProblem as problem:
        emit({"event": "problem", "code": problem.code, "detail": problem.detail, "errors": problem.errors})
    except BaseException as error:  # noqa: BLE001 - whatever it is, the worker must hear of it
        traceback.print_exc()
        emit({"event": "crash", "type": type(error).__name__, "detail": str(error)})
        return 1
    return 0


def _die_with_parent(parent: int) -> None:
    """Ask the kernel for SIGKILL at the worker's death; elsewhere than on Linux the guard thread does it alone."""
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


def _read_order() -> tuple[Order, int]:
    """Read the first line of stdin; return it and the descriptor on which the worker goes on to show that it lives."""
    stdin = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    data = b""
    while b"\n" not in data:
        chunk = os.read(stdin, 1 << 16)
        if not chunk:
            os._exit(1)
        data += chunk
    return Order(**json.loads(data.split(b"\n", 1)[0])), stdin


def _guard(stdin: int, silence_timeout_s: float) -> None:
    """Kill the process group, grandchildren included, when the worker is gone or silent."""
    while True:
        ready, _, _ = select.select([stdin], [], [], silence_timeout_s)
        if not ready:
            # A machine that was suspended, or a body that held the interpreter, wakes here too: look once more.
            ready, _, _ = select.select([stdin], [], [], 0.2)
        if not ready or not os.read(stdin, 1 << 12):
            os.killpg(os.getpgid(0), signal.SIGKILL)


def _emitter(wire: int) -> Callable[[Mapping[str, Any]], None]:
    """Return a thread-safe function that writes one event as one line."""
    mutex = threading.Lock()

    def emit(event: Mapping[str, Any]) -> None:
        line = json.dumps(jsonable(event), allow_nan=False).encode() + b"\n"
        with mutex:
            while line:
                line = line[os.write(wire, line) :]

    return emit


def _hold_device(path: str | None, emit: Callable[[Mapping[str, Any]], None]) -> int | None:
    """Wait for the device's lock and return its descriptor; the kernel frees it however this process ends."""
    if path is None:
        return None
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    said = 0.0
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() - said > WAITING_EVERY_S:
                emit({"event": "waiting"})
                said = time.monotonic()
            time.sleep(LOCK_POLL_S)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # Threads of native libraries must not delay the end: the result is already on the wire.
    os._exit(code)
