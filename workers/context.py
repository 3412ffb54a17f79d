"""What a step body sees: its scratch folder, its spec and a way to say how far it is.

A step is a module with `def run(context: StepContext) -> dict`. It runs in a child process of the worker, has no
database and no credentials, reads its inputs from `context.workdir`, leaves its outputs there under their declared
names and returns a small JSON result. Three keys of a result are read by the worker; everything else is for later
steps, which find it under `context.spec["results"][<step name>]`:

* `summary`: a dict merged into the job's headline figures;
* `outcome`: `budget_met`, `budget_missed` or `infeasible`; the last step that gives one decides;
* `luts`: outputs that are latency tables of this device; dicts with `file` (the output's name), `profile` (fields of
  DeviceProfile), `num_entries`, `num_signatures`, `step`, `noise`, `seconds` and, where it is not the worker's, `device`.
  The registry merges them by entry.
"""

import math
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

OUTBOX = ".outbox"
"""Folder inside the scratch folder where checkpoints wait to be taken by the worker."""

Emit = Callable[[Mapping[str, Any]], None]
Ask = Callable[[Mapping[str, Any]], dict[str, Any]]


class StepProblem(Exception):
    """The user's mistake, not ours: ends the job as failed with this code and sentence, and is never retried."""

    def __init__(self, code: str, detail: str, errors: Sequence[Mapping[str, str]] = ()) -> None:
        """`code` is stable snake_case; `errors` are `{"pointer", "detail"}` pairs as in problem+json."""
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.errors = [dict(error) for error in errors]


class Drained(BaseException):
    """The worker is stopping and a checkpoint has been taken: the body ends here and goes on from it elsewhere.

    No Exception, so that no body takes it for a failure of its own.
    """


def nobody(question: Mapping[str, Any]) -> dict[str, Any]:
    """Stand in for a worker that can be asked. Raises RuntimeError."""
    raise RuntimeError(f"there is no worker to ask for a measurement of kind {question['kind']!r}")


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """One run of one step, seen from inside the child process."""

    workdir: Path
    """Private scratch folder; holds the declared inputs (read-only) and any checkpoint of an earlier attempt."""
    cache: Path
    """Folder shared by the steps of one worker, for what a later step would compute again; it may be empty at any time."""
    spec: dict[str, Any]
    """`job` (the submitted spec), `model` and `dataset` (their rows), `profile` (fields of the DeviceProfile to measure
    on), `limits` (of uploads: `max_zip_entries`, `max_zip_bytes`, `max_zip_ratio`, `max_image_pixels`) and `results`
    (of the steps before, by name). An inspection finds `model` or `dataset` (the upload's payload) and `limits`."""
    seed: int
    """Seed of the job; derive generators from it."""
    attempt: int
    """1 for the first run of this step in this job, more after a crash or a hand-back."""
    emit: Emit
    """Sends one event to the worker; use the methods below."""
    ask: Ask = nobody
    """Has the worker get something measured on a device with agents (`workers.measuring`) and waits for the answer;
    meanwhile this process holds no device. Raises StepProblem where there is none to be had.
    """
    draining: threading.Event = field(default_factory=threading.Event)
    """Set when the worker is about to stop: a body that takes checkpoints now and then takes one at once."""
    kept: threading.Event = field(default_factory=threading.Event)
    """Set when a checkpoint was taken since then."""
    warned: list[dict[str, str]] = field(default_factory=list)
    """Warnings so far; they become `warnings` of the result, for the report."""

    def path(self, name: str) -> Path:
        """Return the path of an input, output or checkpoint in the scratch folder."""
        return self.workdir / name

    def phase(self, name: str) -> None:
        """Say which phase of the wire contract begins (`profiling`, `scoring`, ...)."""
        self.emit({"event": "phase", "phase": name})

    def progress(self, fraction: float, seconds_left: float | None = None) -> None:
        """Say how much of this step is done, 0 to 1, and how long the rest will take; call it freely, the worker throttles.

        Raises Drained after a checkpoint, when the worker is about to stop.
        """
        self._leave_when_kept()
        left = {} if seconds_left is None else {"seconds_left": max(0.0, float(seconds_left))}
        self.emit({"event": "progress", "fraction": min(1.0, max(0.0, float(fraction))), **left})

    def log(self, text: str) -> None:
        """Add a line to the job's history."""
        self.emit({"event": "log", "text": text})

    def metric(self, **values: Any) -> None:
        """Add figures to the job's history; a figure that is not finite is recorded as null."""
        self.emit({"event": "metric", "values": values})

    def warning(self, code: str, text: str) -> None:
        """Tell the user of something that limits the result but does not stop the job."""
        self.warned.append({"code": code, "detail": text})
        self.emit({"event": "warning", "code": code, "text": text})

    def checkpoint(self, path: Path, /, **values: Any) -> None:
        """Keep a copy of a file of the scratch folder now; the next attempt of this step finds it under the same name.

        `values` are figures that belong to it, as `metric` takes them: they enter the job's history together with the
        checkpoint or not at all, so an attempt that goes on from it neither repeats nor lacks them.
        The copy is taken before this returns, so the body may overwrite the file at once. When the worker is about to
        stop, the next call of this or of `progress` raises Drained: what belongs to the checkpoint can still be told.
        """
        self._leave_when_kept()
        path = self.workdir / path
        name = path.relative_to(self.workdir).as_posix()
        outbox = self.workdir / OUTBOX
        outbox.mkdir(exist_ok=True)
        copy = outbox / uuid4().hex
        shutil.copyfile(path, copy)
        self.emit({"event": "checkpoint", "name": name, "file": copy.name, "values": values})
        if self.draining.is_set():
            self.kept.set()

    def _leave_when_kept(self) -> None:
        if self.kept.is_set():
            raise Drained


def jsonable(value: Any) -> Any:
    """Return `value` as strict JSON types: tuples become lists, NumPy scalars numbers, and what is not finite null."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    for convert in ("tolist", "item"):  # NumPy and torch, neither of which is imported here
        if hasattr(value, convert):
            return jsonable(getattr(value, convert)())
    return str(value)
