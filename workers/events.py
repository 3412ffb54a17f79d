"""From a step's child process into the job's history."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from workers import scratch
from workers.journal import Journal
from workers.measuring import Measuring
from workers.step import Pipeline
from workers.view import JobView

PROGRESS_EVERY_S = 0.5
PROGRESS_STEP = 0.001


class StepEvents:
    """Takes the events of one step's child into the job's history."""

    def __init__(self, journal: Journal, pipeline: Pipeline, job: JobView, index: int, measuring: Measuring) -> None:
        """`measuring` answers the step's questions to devices with agents."""
        self._journal, self._pipeline, self._job, self._index = journal, pipeline, job, index
        self._step = pipeline.steps[index]
        self._phase = self._step.phase
        self._measuring = measuring
        self._said_at, self._said, self._waits = 0.0, 0.0, False

    async def take(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """Record an event; return the answer to a question. Raises Fenced, JobCancelled and Stopping."""
        journal, job = self._journal, self._job
        match event:
            case {"event": "phase", "phase": phase}:
                self._phase = phase
                await asyncio.to_thread(journal.phase, job, phase)
            case {"event": "progress", "fraction": fraction}:
                await self._progress(fraction, event.get("seconds_left"))
            case {"event": "log", "text": text}:
                await asyncio.to_thread(journal.event, job, "log", {"text": text})
            case {"event": "metric", "values": values}:
                await asyncio.to_thread(journal.event, job, "metric", values)
            case {"event": "warning", "code": code, "text": text}:
                await asyncio.to_thread(journal.event, job, "warning", {"code": code, "text": text})
            case {"event": "checkpoint", "name": name, "file": file}:
                await asyncio.to_thread(self._checkpoint, name, file, event.get("values", {}))
            case {"event": "waiting"} if not self._waits:
                self._waits = True
                await asyncio.to_thread(
                    journal.event, job, "log", {"text": "Waiting for the device: another job has it."}
                )
            case {"event": "measure"}:
                return await self._measuring.answer(event, self._phase, self._progress)
        return None

    async def _progress(self, fraction: float, seconds_left: float | None) -> None:
        progress = self._pipeline.progress(self._index, fraction)
        now = time.monotonic()
        if now - self._said_at >= PROGRESS_EVERY_S and progress - self._said >= PROGRESS_STEP:
            self._said_at, self._said = now, progress
            await asyncio.to_thread(self._journal.progress, self._job, progress, seconds_left)

    def _checkpoint(self, name: str, file: str, values: Mapping[str, Any]) -> None:
        folder = self._measuring.folder
        scratch.inside(folder, name)
        if copy := scratch.taken(folder, file):
            self._journal.checkpoint(self._job, self._step.name, name, copy, values)
            copy.unlink()
