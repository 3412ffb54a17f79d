"""Faults of processes: each is thrown at a run whose jobs are under way, at a moment that its seed decides."""

import contextlib
import os
import signal

from tests.faults.run import Broken, Run
from workers.__main__ import EXIT_USAGE


def worker(run: Run) -> None:
    """Workers are killed, at any moment of a job."""
    run.begin()
    for _ in range(run.rng.randint(1, 3)):
        job = run.strike()
        run.kill(run.slot_of(job), pause_s=run.pause())
        run.hit(job)
        run.wait(0.1)


def child(run: Run) -> None:
    """The process of a job's steps is killed, in the middle of one or between two."""
    run.begin()
    for job in run.rng.sample(run.jobs, run.rng.randint(1, len(run.jobs))):
        run.until(lambda job=job: job.lines("first") or run.ended(job), "the job's first step")  # type: ignore[misc]
        if not run.ended(job):
            run.wait(run.rng.uniform(0, 1.1 * job.ticks * job.tick_s))
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(job.lines()[-1][-1]), signal.SIGKILL)
            run.hit(job)


def zombie(run: Run) -> None:
    """A worker freezes beyond its lease and comes back: killed where the others can reach it, refused where not."""
    elsewhere = run.setup.database == "postgres" and run.rng.random() < 0.5
    if elsewhere:  # as if on another machine, so that nobody can kill it; on SQLite all are on one
        run.options[1]["locks"] = "other machine"
    run.begin()
    job = run.strike()
    slot = 1 if elsewhere else run.slot_of(job)
    frozen = run.workers[slot]
    frozen.send_signal(signal.SIGSTOP)
    run.hit(job)
    run.wait(run.rng.uniform(0.5, 3) * run.timeout_s)
    with contextlib.suppress(ProcessLookupError):
        frozen.send_signal(signal.SIGCONT)


def poison(run: Run) -> None:
    """A job kills every worker that runs it; the others do not suffer for it."""
    run.submit("kill_worker", failure="poison_job")
    run.begin()
    job = run.jobs[0]
    run.until(lambda: run.ended(job), "the end of the poison job")
    if (num_lost := run.row(job).num_lost) != run.service.settings.max_attempts:
        raise Broken(f"the poison job was given up after {num_lost} workers")
    if len(killed := job.lines("work")) > run.service.settings.max_attempts:
        raise Broken(f"the poison job killed {len(killed)} workers")


def slot(run: Run) -> None:
    """A second worker is started in a slot that is taken, or that two want at once because its holder has died."""
    run.begin()
    job = run.strike()
    wanted = run.slot_of(job)
    if dies := run.rng.random() < 0.5:
        run.may_exit.add(EXIT_USAGE)
        run.kill(wanted, pause_s=0)
        run.hit(job)
    second = run.service.start_worker(wanted, log=run.setup.folder / "second.log", host=("env", run.mark))
    run.until(lambda: second.poll() is not None or EXIT_USAGE in run.exit_codes, "one of two workers to be refused")
    if second.poll() is None:  # it was the faster one
        if (refused := run.workers.pop(wanted, None)) is not None:
            refused.kill()
            refused.wait()
        run.workers[wanted] = second
    elif second.returncode != EXIT_USAGE or (not dies and run.exit_codes):
        raise Broken(f"the second worker ended with {second.returncode}, others with {run.exit_codes}")
