"""What must hold after every run, whatever happened in it."""

import fcntl
import functools
import itertools
import signal

from app.store.models import JobEventRow
from app.store.repositories import Artifacts, Events
from secateur.schemas import JobStatus
from tests.faults.run import Broken, Job, Run, marked, read_json

SUMMARY = {"budget_ms": 1.5, "measured_ms": 1.25, "accuracy": 0.5}
RECOVERY_S = 10.0


def require(holds: bool, text: str) -> None:
    """Raise Broken unless it holds."""
    if not holds:
        raise Broken(text)


def check(run: Run) -> None:
    """Raise Broken unless every promise was kept; ends the service on the way."""
    for job in run.jobs:
        _job(run, job)
    run.until(lambda: not _open_workflows(run), "the job engine to have nothing left to do", 30 + 4 * run.timeout_s)
    codes = run.leave()
    # One that was just being started has nothing to hand back, and no handler of the signal yet.
    require(set(codes) <= {0, -signal.SIGTERM}, f"workers that were told to stop ended with {codes}")
    require(set(run.exit_codes) <= run.may_exit, f"workers ended by themselves with {run.exit_codes}")
    require(not (left := marked(run.mark)), f"processes outlived their workers: {left}")
    _device(run)
    require(not (left := [*(run.service.home / "scratch").glob("*/*")]), f"left in the scratch folder: {left}")
    if run.setup.shipped:
        late = [hit.recovery_s for hit in run.hits if hit.recovery_s is None or hit.recovery_s > RECOVERY_S]
        require(not late, f"recovery took {late} s")


def _open_workflows(run: Run) -> bool:
    return bool(run.service.queue._client.list_workflows(status=["PENDING", "ENQUEUED", "DELAYED"], load_input=False))


def _job(run: Run, job: Job) -> None:
    row = run.row(job)
    if job.failure:
        code = (row.failure or {}).get("code")
        require((row.status, code) == ("failed", job.failure), f"{job.id} ended as {row.status}, {code}")
    else:
        require(
            (row.status, row.outcome) == ("succeeded", "budget_met"), f"{job.id} ended as {row.status}, {row.failure}"
        )
        require(row.summary == SUMMARY, f"{job.id} has the figures {row.summary}")
        _result(run, job)
    with run.service.database.read() as session:
        _history(job, Events(session).after(job.id, limit=10_000))


def _result(run: Run, job: Job) -> None:
    total = functools.reduce(lambda total, tick: (total * 31 + tick + 1) % 1_000_000_007, range(job.ticks), 0)
    with run.service.database.read() as session:
        files = {row.name: row.sha256 for row in Artifacts(session).list(job.id, hidden=False)}
        hidden = [row.name for row in Artifacts(session).list(job.id, hidden=True)]
    require(list(files) == ["work.json"], f"{job.id} left {list(files)}")
    found = read_json(run.service.blobs.read_bytes(files["work.json"]))
    require(found == {"ticks": job.ticks, "sum": total}, f"{job.id} came to {found}, and not to {total}")
    require(not any(name.startswith("checkpoint/") for name in hidden), f"{job.id} left checkpoints: {hidden}")


def _history(job: Job, events: list[JobEventRow]) -> None:
    """Begins queued, ends once, tells every tick once and in order, and never goes back."""
    statuses = [event.data["status"] for event in events if event.kind == "status"]
    require(statuses[:1] == ["queued"], f"{job.id} began as {statuses[:1]}")
    ends = [status for status in statuses if JobStatus(status).ended]
    require(ends[:-1] == ["failed"] * job.retries, f"{job.id} went through {statuses}")
    require(ends[-1:] == [events[-1].data.get("status")], f"{job.id} went on after its end: {statuses}")
    ticks = [event.data["tick"] for event in events if event.kind == "metric"]
    begins = [place for place, tick in enumerate(ticks) if tick == 0] or [0]
    require(len(begins) - 1 <= job.restarts, f"{job.id} told its ticks as {ticks}")
    for begin, end in itertools.pairwise([*begins, len(ticks)]):
        require(ticks[begin:end] == list(range(end - begin)), f"{job.id} told its ticks as {ticks}")
    if not job.failure:
        require(ticks[begins[-1] :] == list(range(job.ticks)), f"{job.id} told its ticks as {ticks}")
    if not job.restarts and not job.retries:
        told = [event.data["progress"] for event in events if event.kind == "progress"]
        require(told == sorted(told), f"{job.id} told its progress as {told}")


def _device(run: Run) -> None:
    for path in run.setup.folder.glob("*/device-local.lock"):
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Broken(f"somebody holds the device: {path}") from None
