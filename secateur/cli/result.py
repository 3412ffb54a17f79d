"""What came of a job: a verdict in one sentence, then dense beside slim."""

import typer

from secateur.cli.common import age, pointed, say, show_table, table
from secateur.cli.figures import baselines, compare, verdict, warnings
from secateur.errors import SecateurError
from secateur.jobs import Job
from secateur.schemas import JobStatus


def print_result(job: Job) -> None:
    """Print an ended job's result on stdout, or on stderr why there is none."""
    state = job.state
    if state.status == JobStatus.FAILED:
        failure = state.failure
        reason = failure.detail if failure else "no reason was given"
        say(f"secateur: job {state.id} failed: {reason}")
        for fault in failure.errors if failure else ():
            say(pointed(fault, reason))
        return
    if state.status == JobStatus.CANCELLED:
        say(f"secateur: job {state.id} was cancelled")
        return
    report = _report(job)
    rows = compare(job.summary, report)
    if rows:
        show_table(table(["", "DENSE", "SLIM", ""], rows, right=["DENSE", "SLIM"]))
        typer.echo()
    if others := baselines(report):
        headings = ["AT THIS BUDGET", "MEASURED", "AS CUT", "REBUILT"]
        show_table(table(headings, others, right=headings[1:]))
        typer.echo()
    for warning in warnings(report):
        typer.echo(f"Note: {warning}")
    typer.echo(verdict(state, report))


def print_job(job: Job) -> None:
    """Print what a job was asked, where it stands and, when it has ended, its result."""
    state, spec = job.state, job.spec
    budget = f"{spec.budget_ms:g} ms" if spec.budget_ms is not None else f"{spec.budget_ratio:g} x dense"
    where = f"{spec.device}, {spec.runtime}" if spec.runtime else spec.device
    rows = [
        ["job", f"{state.id} {state.name}".strip()],
        ["status", str(state.status) if state.status.ended else f"{state.status}, {100 * state.progress:.0f} % done"],
        ["phase", state.phase or ""],
        ["classes", ", ".join(map(str, spec.classes))],
        ["budget", f"{budget} on {where}, threads {spec.threads}, batch {spec.batch}"],
        ["method", f"{spec.saliency}, {spec.solver}, {spec.schedule.mode}, {spec.finetune.mode}, seed {spec.seed}"],
        ["model", spec.model_id],
        ["dataset", spec.dataset_id],
        ["submitted", f"{age(state.created_at)} ago"],
    ]
    show_table(table(["", ""], ([key, value] for key, value in rows if value)))
    if state.status.ended:
        typer.echo()
        print_result(job)


def _report(job: Job) -> dict[str, object]:
    """Return the job's report, or nothing: the summary alone still makes a table."""
    try:
        return job.report()
    except SecateurError:
        return {}
