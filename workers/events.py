"""What a step's child says, taken into the job's history."""

import asyncio
import time
from pathlib import Path
from typing import Any

from workers import scratch
from workers.journal import Journal
from workers.measuring import Measuring
from workers.step import Pipeline
from workers.view import JobView

PROGRESS_EVERY_S = 0.5
PROGRESS_STEP = 0.001


class StepEvents:
    """Takes the events of one run of a step."""

    def __init__(
        self, journal: Journal, pipeline: Pipeline, job: JobView, index: int, folder: Path, agent_silence_s: float
    ) -> None:
        self._journal, self._pipeline, self._job, self._index, self._folder = journal, pipeline, job, index, folder
        step = pipeline.steps[index]
        self._phase = step.phase
        self._measuring = Measuring(journal, job, step.name, folder, agent_silence_s)
        self._said_at, self._said, self._waits = 0.0, 0.0, False

    async def take(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """Record the event; return the answer where it is a question."""
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
                await asyncio.to_thread(self._checkpoint, name, file)
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

    def _checkpoint(self, name: str, file: str) -> None:
        scratch.inside(self._folder, name)
        if copy := scratch.taken(self._folder, file):
            step = self._pipeline.steps[self._index].name
            self._journal.checkpoint(self._job, step, name, copy)
            copy.unlink()
