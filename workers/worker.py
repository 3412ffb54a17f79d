"""One worker process from boot to end: registers, takes over what older boots of its slot left, works, hands back."""

import asyncio
import os
import signal
import socket
from collections.abc import Mapping
from typing import NoReturn
from uuid import uuid4

import structlog

from app.migrate import migrate
from app.queue import Queue
from app.scheduling import release
from app.settings import Settings
from app.store.blobs_open import open_blobs
from app.store.repositories import Devices, Workers
from app.store.sessions import Database
from app.tracing import Tracing
from lut.profile import DeviceProfile
from workers.children import Timing
from workers.engine import Engine
from workers.heartbeat import Heartbeat
from workers.journal import Journal
from workers.locks import Slots, device_lock
from workers.pipeline import BUILD
from workers.reaper import Reaper
from workers.runner import Runner
from workers.scratch import Scratch
from workers.step import Pipeline

log = structlog.get_logger(__name__)

EXIT_LOST = 75
"""Exit code of a worker that was declared dead while it lived, or is cut off from the database: start it again."""
LIMITS = ("max_zip_entries", "max_zip_bytes", "max_zip_ratio", "max_image_pixels")


def run_worker(
    settings: Settings,
    *,
    slot: int,
    device: str,
    device_class: str,
    profile: DeviceProfile,
    pipeline: Pipeline,
    builds: Pipeline = BUILD,
) -> None:
    """Work until SIGTERM or SIGINT; raise SlotTaken when another process of this machine has the slot.

    `device` is the physical device, whose lock the children hold; jobs come from the queue of its `device_class`.
    `profile` is the device as `workers.device.describe` returns it.
    """
    pipelines = {"prune": pipeline, "lut_build": builds}
    worker = _Worker(settings, slot, device, device_class, profile, pipelines)
    with worker.slots.hold(slot, worker.id):
        migrate(settings)
        asyncio.run(worker.run())


class _Worker:
    def __init__(
        self,
        settings: Settings,
        slot: int,
        device: str,
        device_class: str,
        profile: DeviceProfile,
        pipelines: Mapping[str, Pipeline],
    ) -> None:
        boot = uuid4().hex
        self._slot = f"{socket.gethostname()}/{slot}"
        self.id = f"{self._slot}:{boot}"
        self._settings = settings
        self._device_class = device_class
        self._profile = profile
        self._pipelines = pipelines
        self._device_lock = device_lock(settings.lock_folder, device)
        self.slots = Slots(folder=settings.lock_folder, database_url=settings.url)
        self._database = Database(settings.url)
        self._queue = Queue(settings.url, version=settings.queue_version)
        self._tracing = Tracing(settings, "secateur-worker")
        self._scratch = Scratch(settings.home / "scratch", self._slot, boot)

    async def run(self) -> None:
        stop, force = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            # The second one ends patience.
            asyncio.get_running_loop().add_signal_handler(number, lambda: (force if stop.is_set() else stop).set())
        older = self._register()
        self._scratch.sweep()
        engine = self._engine()
        reaper = Reaper(
            self._database, engine, self._end_process,
            max_attempts=self._settings.max_attempts, release=lambda: release(self._database, self._queue),
        )  # fmt: skip
        heartbeat = Heartbeat(
            self._settings.url, reaper, self._end_process, self.id, on_lost=self._lost,
            every_s=self._settings.worker_heartbeat_s, timeout_s=self._settings.worker_timeout_s,
            cut_off_s=self._settings.worker_cut_off_s,
        )  # fmt: skip
        await engine.launch()
        heartbeat.start()
        await asyncio.to_thread(reaper.reap, older)
        log.info("worker is ready", action="worker_ready", worker_id=self.id)
        await stop.wait()
        log.info("worker stops", action="worker_stop", worker_id=self.id)
        await engine.stop(self._settings.drain_timeout_s, force)
        await asyncio.to_thread(heartbeat.stop)
        with self._database.write() as session:
            Workers(session).stop(self.id)
        await asyncio.to_thread(self._tracing.close)
        await asyncio.to_thread(engine.close)
        self._scratch.close()
        self._queue.close()
        self._database.close()

    def _register(self) -> list[str]:
        """Insert this boot and declare older boots of its slot dead (we hold its lock, so they are); return them."""
        profile, device = self._profile, self._device_class
        with self._database.write() as session:
            workers = Workers(session)
            workers.register(self.id, slot=self._slot, device_id=device, version=self._settings.queue_version)
            Devices(session).register(
                device, name=device, hardware=profile.hardware,
                runtime=profile.runtime, runtime_version=profile.runtime_version,
            )  # fmt: skip
            return workers.declare_older_boots_dead(self._slot, self.id)

    def _engine(self) -> Engine:
        settings = self._settings
        limits = {name: getattr(settings, name) for name in LIMITS}
        blobs = open_blobs(settings)
        runner = Runner(
            pipelines=self._pipelines,
            journal=Journal(self._database, blobs, self.id, self._device_class, limits),
            folders=self._scratch,
            profile=self._profile,
            device_lock=self._device_lock,
            timing=Timing(
                stall_timeout_s=settings.stall_timeout_s,
                silence_timeout_s=settings.worker_timeout_s,
                beat_s=settings.worker_heartbeat_s,
                agent_silence_s=settings.agent_lease_s,
            ),
            tracing=self._tracing,
        )
        return Engine(
            runner, url=settings.url, version=settings.queue_version, worker_id=self.id,
            device_id=self._device_class, inspect_timeout_s=settings.inspect_timeout_s, log_level=settings.log_level,
        )  # fmt: skip

    def _end_process(self, worker_id: str, *, only_stopped: bool) -> bool:
        slot, _, _ = worker_id.rpartition(":")
        host, _, number = slot.rpartition("/")
        if host != socket.gethostname() or slot == self._slot:
            return False
        return self.slots.end_holder(int(number), worker_id, only_stopped=only_stopped)

    def _lost(self, reason: str) -> NoReturn:
        """Stop at once: the work is in other hands by now. The children die with this process."""
        log.critical(reason, action="worker_lost", worker_id=self.id)
        os._exit(EXIT_LOST)
