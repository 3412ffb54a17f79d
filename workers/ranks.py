"""Training in several processes: the job's child starts the other ranks as children of its own; `python -m workers.ranks` is one.

They live in the child's process group and ask the kernel to die with it, so whatever ends the child ends them: a
cancellation, a worker that is gone, a stall. A rank that dies ends the child within half a second, in the way that it died
itself: the worker tries a step again whose process was killed, and not one that crashed.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from app.settings import Settings
from pruning.team import ALONE, Team, joined
from workers.child import die_with_parent
from workers.context import Emit, StepContext

WATCH_EVERY_S = 0.2
GRACE_S = 5.0
"""How long the other ranks have to end after the last one of their messages; and how long a broken line waits for its reason."""


@dataclass(frozen=True, kw_only=True)
class RankOrder:
    """What the child asks of another rank, as one JSON line on its stdin."""

    body: str
    """Module of the step; its `follow(context, team)` is the rank's part."""
    rank: int
    size: int
    meeting: str
    device: str
    num_threads: int
    parent: int
    """Process id of the child."""
    workdir: str
    cache: str
    spec: dict[str, Any]
    seed: int
    attempt: int


@contextmanager
def team_of(context: StepContext, body: str) -> Iterator[Team]:
    """Yield the team that trains for a step: this process and, where the settings say so, others, all gone afterwards.

    The processor's cores are shared out among them. They run `follow` of the module `body`, which has to make the calls on
    its team that this process makes; what they tell of themselves goes nowhere.
    """
    settings = Settings()
    size, device = settings.train_processes, settings.train_device
    if size == 1:
        yield ALONE if device == "cpu" else Team(device=torch.device(device))
        return
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // size))
    meeting = context.path(f".meeting-{uuid4().hex}")
    others: list[subprocess.Popen[bytes]] = []
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(others, over, context.emit), daemon=True)
    try:
        others.extend(_started(context, body, rank, size, meeting, device) for rank in range(1, size))
        watch.start()
        with joined(rank=0, size=size, meeting=meeting, device=device) as team:
            try:
                yield team
            except RuntimeError:
                raise
            except BaseException:
                over.set()  # all ranks stop alike, at a checkpoint say, and another may be gone before this one
                raise
            over.set()
        for process in others:
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
    except RuntimeError:
        watch.join(GRACE_S)  # a line that breaks has a reason, which ends this process if it is the end of another
        raise
    finally:
        over.set()
        for process in others:
            process.kill()
            process.wait()
        torch.set_num_threads(before)


def main() -> int:
    """Run one rank's part of a step; return the exit code."""
    order = RankOrder(**json.loads(sys.stdin.buffer.readline()))
    die_with_parent(order.parent)
    torch.set_num_threads(order.num_threads)
    context = StepContext(
        workdir=Path(order.workdir),
        cache=Path(order.cache),
        spec=order.spec,
        seed=order.seed,
        attempt=order.attempt,
        emit=lambda event: None,
    )
    with joined(rank=order.rank, size=order.size, meeting=Path(order.meeting), device=order.device) as team:
        importlib.import_module(order.body).follow(context, team)
    return 0


def _started(
    context: StepContext, body: str, rank: int, size: int, meeting: Path, device: str
) -> "subprocess.Popen[bytes]":
    order = RankOrder(
        body=body,
        rank=rank,
        size=size,
        meeting=str(meeting),
        device=device,
        num_threads=torch.get_num_threads(),
        parent=os.getpid(),
        workdir=str(context.workdir),
        cache=str(context.cache),
        spec=context.spec,
        seed=context.seed,
        attempt=context.attempt,
    )
    process = subprocess.Popen([sys.executable, "-P", "-m", "workers.ranks"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    with process.stdin as line:
        line.write(json.dumps(asdict(order), allow_nan=False).encode() + b"\n")
    return process


def _watch(others: Sequence["subprocess.Popen[bytes]"], over: threading.Event, emit: Emit) -> None:
    """End this process when another rank does before the training is over."""
    while not over.wait(WATCH_EVERY_S):
        for rank, process in enumerate(others, start=1):
            code = process.poll()
            if code is None or over.is_set():
                continue
            if -code in (signal.SIGKILL, signal.SIGTERM):
                os.kill(os.getpid(), signal.SIGKILL)
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            text = f"process {rank + 1} of {len(others) + 1} {how}"
            emit({"event": "crash", "type": "RankDied", "detail": text})
            os._exit(1)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)
