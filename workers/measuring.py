"""A step's question to a device with agents: stored for them, waited for however long, answered.

A question that was stored when the worker died is found again by the next run of the step, its answer too.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from app.store.repositories import Artifacts, Devices, Measurements
from workers import scratch
from workers.fence import Fenced, patient
from workers.journal import MEASURE, Journal, Kept
from workers.process import Stopping
from workers.view import JobView

POLL_S = 0.5
BUSY_S = 3.0
"""A device that has not begun after this long is worth a line in the job's history."""
WAITING = "waiting"

Say = Callable[[float, float | None], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a question stands."""

    status: str
    result: Mapping[str, Any]
    error: str
    progress: float
    seconds_left: float | None
    online: bool
    last_seen_at: datetime | None


class Measuring:
    """The questions of one run of a step."""

    def __init__(
        self, journal: Journal, job: JobView, step: str, folder: Path, silence_s: float, draining: asyncio.Event
    ) -> None:
        """Networks to be timed lie in `folder`; a device whose agents were silent for `silence_s` is offline.

        Once `draining` is set no answer is waited for: the question stays, and whoever goes on finds the answer.
        """
        self._journal, self._job, self._step, self.folder = journal, job, step, folder
        self._silence_s, self._draining = silence_s, draining
        self._number = 0

    async def answer(self, question: Mapping[str, Any], phase: str, progress: Say) -> dict[str, Any]:
        """Return `{"result": ...}` or `{"problem": ...}`; until then say in the job's history what it waits for.

        `phase` is the job's phase while the device works, `progress` is told the step's fraction. Raises Fenced,
        JobCancelled and Stopping.
        """
        self._number += 1
        measurement_id = await asyncio.to_thread(self._ask, question, self._number)
        device, (start, end) = question["device"], question["span"]
        began, said = time.monotonic(), ""
        while True:
            now = await asyncio.to_thread(self._look, measurement_id, question)
            if now.status in ("done", "failed"):
                break
            waits = _sentence(device, now, time.monotonic() - began)
            if waits != said:
                text = waits or f"The device {device} is measuring."
                await self._tell(text, WAITING if waits else phase)
                said = waits
            await progress(start + (end - start) * now.progress, now.seconds_left)
            if self._draining.is_set():
                raise Stopping
            await asyncio.sleep(POLL_S)
        if said:
            await self._tell(f"The device {device} has answered.", phase)
        if now.status == "done":
            return {"result": dict(now.result)}
        detail = f"The device {device} could not measure: {now.error}"
        return {"problem": {"code": "measurement_failed", "detail": detail}}

    @patient
    def _ask(self, question: Mapping[str, Any], number: int) -> str:
        kept = []
        for index, name in enumerate(question["networks"]):
            path = scratch.found(self.folder, name)
            assert path is not None, f"the step did not leave {name}"
            blob = self._journal.blobs.put_file(path)
            kept.append(Kept(name=f"{MEASURE}{self._step}/{number}/{index}", blob=blob, source=path))
        asked = {name: question[name] for name in ("device", "kind", "profile", "payload")}
        files = [one.blob.sha256 for one in kept]
        digest = hashlib.sha256(json.dumps([asked, files], sort_keys=True).encode()).hexdigest()
        with self._journal.fenced(self._job) as (session, job):
            replaced = [Artifacts(session).get(job.id, one.name) for one in kept]
            old = [before.sha256 for before in replaced if before]
            for one in kept:
                self._journal.record(session, self._job, one)
            row = Measurements(session).ask(
                job, self._step, number, digest=digest, device_id=asked["device"], kind=asked["kind"],
                profile=asked["profile"], payload=asked["payload"], files=files,
            )  # fmt: skip
        self._journal.drop(old)
        return row.id

    @patient
    def _look(self, measurement_id: str, question: Mapping[str, Any]) -> Standing:
        device_id, profile = question["device"], question["profile"]
        with self._journal.database.read() as session:
            row = Measurements(session).get(measurement_id)
            device = Devices(session).get(device_id)
            if row is None:
                raise Fenced(self._job.id)
            status, error = row.status, row.error or ""
            offered = [{**one, "threads": 0, "batch": 0} for one in (device.profiles if device else None) or ()]
            if status in ("queued", "leased") and {**profile, "threads": 0, "batch": 0} not in offered:
                status = "failed"
                error = f"it is not what it was when the job began ({profile['runtime']} {profile['runtime_version']})."
            return Standing(
                status=status,
                result=row.result or {},
                error=error,
                progress=row.progress,
                seconds_left=row.seconds_left,
                online=bool(Devices(session).online([device_id], self._silence_s)),
                last_seen_at=device.last_seen_at if device else None,
            )

    async def _tell(self, text: str, phase: str) -> None:
        await asyncio.to_thread(self._journal.phase, self._job, phase)
        await asyncio.to_thread(self._journal.event, self._job, "log", {"text": text})


def _sentence(device: str, now: Standing, waited_s: float) -> str:
    """Return what the job waits for; empty while the device works."""
    if not now.online:
        seen = f", last seen {now.last_seen_at:%Y-%m-%d %H:%M:%S} UTC" if now.last_seen_at else ""
        return f"Waiting for the device {device}: it is offline{seen}."
    if now.status == "queued" and waited_s > BUSY_S:
        return f"Waiting for the device {device}: it is busy."
    return ""
