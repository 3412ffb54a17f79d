"""Run one step in a child process: place its inputs, follow its events, keep its outputs."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError

from app.store.blobs import BlobDamaged, BlobStore
from app.store.disk import is_full
from app.tracing import Span, Tracing
from lut.profile import DeviceProfile
from workers import scratch
from workers.child import Order
from workers.children import Children, Timing
from workers.events import StepEvents
from workers.fence import Fenced, JobCancelled, TimedOut
from workers.journal import CHECKPOINT, RESULT, Journal, Kept, keep
from workers.measuring import Measuring
from workers.process import Ending, Stopping, storage_full
from workers.scratch import Scratch
from workers.step import Pipeline, Results, Step
from workers.view import JobView

log = structlog.get_logger(__name__)

CHILD_TRIES = 2
"""Runs of a step whose child is killed or stalls before the job fails; a crash of its own is not repeated."""


class Runner:
    """Runs steps and inspections for one worker, on its event loop."""

    def __init__(
        self,
        *,
        pipelines: Mapping[str, Pipeline],
        journal: Journal,
        folders: Scratch,
        profile: DeviceProfile,
        device_lock: Path,
        timing: Timing,
        tracing: Tracing,
    ) -> None:
        self._pipelines = pipelines
        self.tracing = tracing
        self.journal = journal
        self.profile = profile
        self._folders = folders
        self._device_lock = str(device_lock)
        self._timing = timing
        self._draining = asyncio.Event()
        self._stopping = asyncio.Event()
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._children = Children(timing, tracing, draining=self._draining, stopping=self._stopping)

    def pipeline(self, job: JobView) -> Pipeline:
        """The steps of a job of this kind."""
        return self._pipelines[job.kind]

    @property
    def blobs(self) -> BlobStore:
        """Where inputs come from and outputs go to."""
        return self.journal.blobs

    async def drain(self, timeout_s: float, force: asyncio.Event) -> None:
        """Begin nothing more and return when no child is left: each ends at its next checkpoint, or when its step is done.

        After `timeout_s` seconds, or at once when `force` is set, those that are left are ended as they are; their steps
        go on from the last checkpoint, elsewhere or later.
        """
        self._draining.set()
        waits = [asyncio.create_task(event.wait()) for event in (self._idle, force)]
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        self._stopping.set()
        await self._idle.wait()
        await self._children.release_all()

    async def release(self, job_id: str) -> None:
        """End the child that a job has kept for its next step."""
        await self._children.release(job_id)

    async def park(self) -> None:
        """Wait for the end of the process when the worker is stopping: the engine must not see this work end."""
        if self._draining.is_set():
            await asyncio.Event().wait()

    async def run_step(self, job: JobView, index: int, results: Results) -> dict[str, Any] | None:
        """Run step `index` of the job unless it is done already; return its result, or None when the job failed.

        Raises Fenced, JobCancelled and Stopping, always after the child is gone.
        """
        step = self.pipeline(job).steps[index]
        try:
            with self.tracing.span(f"step {step.name}", job.traceparent, **described(job), step=step.name) as span:
                return await self._run_step(job, index, step, results, span)
        except (Fenced, JobCancelled, Stopping):
            raise
        except TimedOut:
            detail = f"The job has run for {job.spec['job']['timeout_minutes']:g} minutes, the time it was given."
            await asyncio.to_thread(self.journal.fail, job, "timed_out", detail, {})
            return None
        except BlobDamaged as error:
            await asyncio.to_thread(
                self.journal.fail, job, "file_damaged", f"Lost to the disk or the bucket: {error}.", {}
            )
            return None
        except Exception as error:
            log.exception("step broke", action="step", job_id=job.id, step=step.name)
            ending = Ending(code="internal_error", detail=f"{type(error).__name__}: {error}")
            if is_full(error):
                ending = storage_full(str(error))
            await asyncio.to_thread(self.journal.fail, job, ending.code, ending.detail, {})
            return None

    async def _run_step(
        self, job: JobView, index: int, step: Step, results: Results, span: Span
    ) -> dict[str, Any] | None:
        stored = await asyncio.to_thread(self.journal.artifacts, job)
        if done := stored.get(f"{RESULT}{step.name}"):
            # A retried job, or the worker died after recording the step here and before the engine had noted it.
            result = dict(json.loads(self.blobs.read_bytes(done)))
            await asyncio.to_thread(self.journal.recall_step, job, result, self.pipeline(job).progress(index, 1.0))
            return result
        await asyncio.to_thread(self.journal.phase, job, step.phase)
        for run in range(CHILD_TRIES):
            try:
                async with self._folder(f"{job.id}-{step.name}") as folder:
                    stored = await asyncio.to_thread(self.journal.artifacts, job)
                    await asyncio.to_thread(self._place, folder, step, {**job.inputs, **stored})
                    package = self.pipeline(job).package
                    order = self._order(package, step, folder, {**job.spec, "results": results}, job.attempt + run)
                    order = replace(order, traceparent=span.traceparent)
                    asked = Measuring(
                        self.journal, job, step.name, folder, self._timing.agent_silence_s, self._draining
                    )
                    events = StepEvents(self.journal, self.pipeline(job), job, index, asked)
                    ending = await self._children.carry_out(order, events.take, lambda: self.journal.check(job), job.id)
                    span.set(ending=ending.code or "result")
                    if ending.result is not None:
                        return await asyncio.to_thread(self._finish, job, index, step, folder, ending.result)
            except (OSError, DBAPIError) as error:
                if not is_full(error):
                    raise
                ending = storage_full(str(error))
            if not ending.retryable or run + 1 == CHILD_TRIES:
                break
            await asyncio.to_thread(self.journal.event, job, "warning", {"code": ending.code, "text": ending.detail})
        more = {"text": ending.log_tail, "errors": list(ending.errors)} if ending.log_tail or ending.errors else {}
        await asyncio.to_thread(self.journal.fail, job, ending.code, ending.detail, more)
        return None

    async def run_inspection(
        self, name: str, spec: Mapping[str, Any], inputs: Mapping[str, str], outputs: Sequence[str] = ()
    ) -> Ending:
        """Run the body of an inspection, which belongs to no job; raises Stopping.

        Of the `outputs` that it leaves, `files` of its result tells `sha256`, `size_bytes` and `hold_id`, by name.
        """
        step = Step(name=name, phase="", weight=1, inputs=tuple(inputs))
        package = self._pipelines["prune"].package

        async def ignore(event: dict[str, Any]) -> None:
            del event

        async with self._folder(name) as folder:
            await asyncio.to_thread(self._place, folder, step, inputs)
            ending = await self._children.carry_out(self._order(package, step, folder, spec, 1), ignore, lambda: None)
            if ending.result is None or not outputs:
                return ending
            left = {output: path for output in outputs if (path := scratch.found(folder, output))}
            files = {output: await asyncio.to_thread(self.journal.held, path) for output, path in left.items()}
            return replace(ending, result={**ending.result, "files": files})

    @asynccontextmanager
    async def _folder(self, label: str) -> AsyncIterator[Path]:
        if self._draining.is_set():
            raise Stopping
        self._busy += 1
        self._idle.clear()
        folder = await asyncio.to_thread(self._folders.make, label)
        try:
            yield folder
        finally:
            # Not in a thread: this also runs while the loop is torn down.
            self._folders.remove(folder)
            self._busy -= 1
            if not self._busy:
                self._idle.set()

    def _order(self, package: str, step: Step, folder: Path, spec: Mapping[str, Any], attempt: int) -> Order:
        return Order(
            step=step.name,
            package=package,
            workdir=str(folder),
            cache=str(self._folders.cache()),
            spec=dict(spec),
            seed=int(spec.get("job", {}).get("seed", 0)),
            attempt=attempt,
            device_lock=self._device_lock if step.exclusive else None,
        )

    def _place(self, folder: Path, step: Step, files: Mapping[str, str]) -> None:
        for name in (*step.inputs, *step.optional_inputs):
            if name in files:
                with self.blobs.local(files[name]) as path:
                    scratch.place(path, folder, name)
            elif name in step.inputs:
                raise LookupError(f"step {step.name} needs {name}, which no step has left")
        prefix = f"{CHECKPOINT}{step.name}/"
        for name, sha256 in files.items():
            if name.startswith(prefix):
                self._restore(folder, name.removeprefix(prefix), sha256)

    def _restore(self, folder: Path, name: str, sha256: str) -> None:
        """Put a checkpoint back; one that is gone or damaged costs the time since the step began, not the job."""
        try:
            with self.blobs.local(sha256) as path:
                scratch.restore(path, folder, name)
        except (FileNotFoundError, BlobDamaged) as error:
            log.warning("checkpoint is lost", action="restore", name=name, sha256=sha256, error=str(error))

    def _finish(
        self, job: JobView, index: int, step: Step, folder: Path, result: dict[str, Any]
    ) -> dict[str, Any] | None:
        files = []
        for output in step.outputs:
            path = scratch.found(folder, output.name)
            if path is not None:
                files.append(keep(self.blobs, output, path))
            elif not output.optional:
                self.journal.fail(job, "output_missing", f"Step {step.name} ended without leaving {output.name}.", {})
                return None
        path = folder / ".result.json"
        path.write_text(json.dumps(result, allow_nan=False))
        files.append(Kept(name=f"{RESULT}{step.name}", blob=self.blobs.put_file(path), source=path))
        self.journal.finish_step(job, step.name, result, files, self.pipeline(job).progress(index, 1.0))
        return result


def described(job: JobView) -> dict[str, str | int]:
    """Return the attributes of every span of the job."""
    return {"job_id": job.id, "kind": job.kind, "device": job.device, "attempt": job.attempt}
