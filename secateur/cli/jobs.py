"""`secateur jobs | show | watch | cancel | retry | download`."""

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.common import (
    SERVER,
    ExitCode,
    Json,
    Server,
    age,
    connect,
    exit_code,
    say,
    say_json,
    show_table,
    size,
    table,
)
from secateur.cli.result import print_job, print_result
from secateur.cli.watching import watch_job
from secateur.schemas import JobStatus, PruneJob

JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.", show_default=False)]


def jobs(
    status: Annotated[JobStatus | None, typer.Option(help="Only jobs in this state.", show_default=False)] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most this many, newest first.")] = 20,
    server: Server = SERVER,
    json: Json = False,
) -> None:
    """List jobs, newest first."""
    with connect(server) as client:
        page_size = min(limit, 100)
        found = [job.state for job in islice(client.jobs(status=status, page_size=page_size), limit)]
    if json:
        return say_json(found)
    headings = ["ID", "NAME", "STATUS", "PHASE", "DONE", "BUDGET", "CLASSES", "AGE"]
    return show_table(table(headings, map(_row, found), right=["DONE", "AGE"]))


def _row(job: PruneJob) -> list[str]:
    ended = job.outcome or (job.failure.code if job.failure else "")
    spec = job.spec
    budget = f"{spec.budget_ms:g} ms" if spec.budget_ms is not None else f"{spec.budget_ratio:g} x dense"
    classes = ", ".join(map(str, spec.classes[:4])) + (f" +{len(spec.classes) - 4}" if len(spec.classes) > 4 else "")
    where = ended if job.status.ended else job.phase or ""
    return [
        job.id,
        job.name,
        str(job.status),
        where,
        f"{100 * job.progress:.0f} %",
        budget,
        classes,
        age(job.created_at),
    ]


def show(job_id: JobId, server: Server = SERVER, json: Json = False) -> None:
    """Show one job: what was asked, where it stands, what came out."""
    with connect(server) as client:
        job = client.job(job_id)
        if json:
            return say_json(job.state)
        return print_job(job)


def watch(job_id: JobId, server: Server = SERVER, json: Json = False) -> None:
    """Follow a job until it ends, then show its result; the exit code tells how it ended."""
    with connect(server) as client:
        job = client.job(job_id)
        job.state = watch_job(client, job_id, json=json)
        if json:
            say_json({"kind": "result", "job": job.state}, line=True)
        else:
            print_result(job)
    raise typer.Exit(exit_code(job.state))


def cancel(
    job_id: JobId,
    wait: Annotated[bool, typer.Option("--wait", help="Come back when the job has stopped.")] = False,
    server: Server = SERVER,
    json: Json = False,
) -> None:
    """Stop a job. Exit code 5 with --wait, as the job then is cancelled."""
    with connect(server) as client:
        job = client.cancel(job_id)
        if wait:
            job.wait(check=False)
    if json:
        say_json(job.state)
    else:
        say(f"job {job.id} is {job.status}")
    if wait:
        raise typer.Exit(exit_code(job.state))


def retry(job_id: JobId, server: Server = SERVER, json: Json = False) -> None:
    """Run a failed or cancelled job again."""
    with connect(server) as client:
        job = client.retry(job_id)
    if json:
        say_json(job.state)
    else:
        say(f"job {job.id} is {job.status}; follow it with: secateur watch {job.id}")


def download(
    job_id: JobId,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to put the files in [default: ./JOB]")] = None,
    name: Annotated[
        list[str] | None, typer.Option("--file", help="Only this file; may be given again.", show_default=False)
    ] = None,
    server: Server = SERVER,
    json: Json = False,
) -> None:
    """Save what a job made: the slim network, its plan, its latency table and its report."""
    folder = out or Path(job_id)
    with connect(server) as client:
        files = {artifact.name: artifact for artifact in client.artifacts(job_id)}
        if not files:
            state = client.job(job_id).state
            say(f"secateur: job {job_id} has no files yet; it is {state.status}")
            raise typer.Exit(ExitCode.FAILED)
        paths = client.download(job_id, folder, names=name)
    if json:
        return say_json([{"path": str(path), **files[path.name].model_dump(mode="json")} for path in paths])
    rows = ([str(path), size(files[path.name].size_bytes), files[path.name].sha256[:12]] for path in paths)
    return show_table(table(["FILE", "SIZE", "SHA-256"], rows, right=["SIZE"]))
