"""Faults of what the processes stand on: the database, the disk, the clocks, what was stored, and the version."""

import contextlib
import os
import signal
import time

from app.scheduling import schedule
from app.store.blobs import LocalBlobs
from app.store.repositories import Artifacts, Jobs
from tests.faults.run import Broken, Job, Run
from tests.integration.engine_service import CHECKPOINT, lives

AWAY_S = 8.0
STEPS_S = (30.0, -30.0, 3600.0, -3600.0)


def postgres(run: Run) -> None:
    """The database stops in the middle of whatever it does, is away for eight seconds and recovers."""
    run.may_exit.clear()  # nobody dies of it
    assert run.setup.server is not None
    run.begin()
    for _ in range(run.rng.randint(1, 2)):
        job = run.strike()
        run.setup.server.stop()
        run.wait(AWAY_S)
        run.setup.server.start()
        run.hit(job)
        run.wait(run.rng.uniform(0, 2))


def disk(run: Run) -> None:
    """The disk of database, files and scratch folders is full for a while; what failed for it is retried."""
    run.begin()
    run.strike()
    filler = run.service.home / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 12))
    run.wait(run.rng.uniform(0.5, 4))
    filler.unlink()
    for job in run.jobs:
        run.until(lambda job=job: run.ended(job), f"the end of {job.id}")  # type: ignore[misc]
        if run.row(job).status == "failed":
            _retry(run, job)


def _retry(run: Run, job: Job) -> None:
    code = (run.row(job).failure or {}).get("code")
    if code != "storage_full":
        raise Broken(f"{job.id} failed with {code}: {run.row(job).failure}")
    job.retries += 1
    with run.service.database.write() as session:
        jobs = Jobs(session)
        assert jobs.requeue(job.id)
        row = jobs.get(job.id)
        assert row is not None
        schedule(session, run.service.queue, row)


def checkpoint(run: Run) -> None:
    """A stored checkpoint loses bits, or is lost, and whoever wrote it is killed."""
    run.begin()
    job = run.strike("tick")
    process, slot = int(job.lines()[-1][-1]), run.slot_of(job)
    job.restarts = 1
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGSTOP)  # so that no other checkpoint comes
    run.wait(0.5)
    with run.service.database.read() as session:
        row = Artifacts(session).get(job.id, CHECKPOINT)
    if row is not None:
        assert isinstance(run.service.blobs, LocalBlobs)
        path = run.service.blobs.path(row.sha256)
        harm = run.rng.choice(("bits", "half", "gone"))
        content = path.read_bytes()
        path.unlink()
        if harm != "gone":
            path.write_bytes(bytes([content[0] ^ 1]) + content[1:] if harm == "bits" else content[: len(content) // 2])
    if run.rng.random() < 0.5:
        run.kill(slot, pause_s=run.pause())
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    run.hit(job)


def clock(run: Run) -> None:
    """The clock of the workers, of the database or of both is set, while a worker perhaps dies."""
    run.may_exit.clear()  # nobody dies of it
    run.begin()
    for _ in range(run.rng.randint(1, 3)):
        job = run.strike()
        for one in run.rng.sample(run.clocks, run.rng.randint(1, len(run.clocks))):
            one.set(run.rng.choice(STEPS_S))
        run.wait(run.rng.uniform(0, 1.5) * run.timeout_s)
    if run.rng.random() < 0.5 and not run.ended(job):
        run.may_exit.add(-signal.SIGKILL)
        run.kill(run.slot_of(job), pause_s=3 * run.timeout_s)
        run.hit(job)


def deploy(run: Run) -> None:
    """The workers are replaced one by one, in good order or not, by some that continue running jobs or by some that cannot."""
    run.may_exit.add(0)
    version = run.rng.choice(("1", "2"))
    run.begin()
    run.strike()
    for slot in run.rng.sample(sorted(run.workers), len(run.workers)):
        run.options[slot] = {"queue_version": version}
        run.start_at[slot] = time.monotonic() + run.rng.uniform(0, 1)
        old = run.workers[slot]
        old.send_signal(run.rng.choice((signal.SIGTERM, signal.SIGTERM, signal.SIGKILL)))
        run.until(lambda old=old: not lives(old.pid), "the end of the old worker")  # type: ignore[misc]
        run.wait(run.rng.uniform(0, 2))
    run.submit()  # by an API that is still the old one
    if version != "1":
        for job in run.jobs:
            job.restarts = 1
