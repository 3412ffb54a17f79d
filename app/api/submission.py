"""What every kind of job shares: submitted once under an Idempotency-Key, cancelled, retried."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import Header
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from structlog.contextvars import get_contextvars

from app.auth.access import Access
from app.auth.limits import check_jobs
from app.errors import ApiProblem, NotFound
from app.scheduling import schedule, submit
from app.services import Services
from app.store.models import DeviceRow, PruneJobRow
from app.store.repositories import Datasets, Idempotency, Jobs, Models
from app.tracing import current_traceparent
from secateur.schemas import JobStatus
from secateur.wire import Scheduled

NOUNS = {"prune": "job", "lut_build": "table build"}

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Any string of yours: sent again with the same body within 24 hours it gets the same answer.",
    ),
]

Make = Callable[[Session], tuple[PruneJobRow, DeviceRow]]
"""Makes the job (`Jobs.new`), and finds its device, once everything it needs is locked in the given transaction."""
Show = Callable[[PruneJobRow], BaseModel]


def submit_once(
    services: Services, who: Access, path: str, spec: Scheduled, key: str | None, make: Make, show: Show
) -> JSONResponse:
    """Answer 202 with the job that `make` adds, or, for a key that came before with the same body, the first answer."""
    for last_try in (False, True):
        try:
            return _submit(services, who, path, spec, key, make, show)
        except (IntegrityError, ApiProblem) as error:
            # Another request may have used the key since we looked, and the project's last job: its answer is there now.
            if last_try or key is None or (isinstance(error, ApiProblem) and error.problem.code != "job_quota"):
                raise
    raise AssertionError("unreachable")


def _submit(
    services: Services, who: Access, path: str, spec: Scheduled, key: str | None, make: Make, show: Show
) -> JSONResponse:
    route = f"POST {path}"
    body_sha256 = hashlib.sha256(spec.model_dump_json().encode()).hexdigest() if key is not None else ""
    max_age_s = services.settings.idempotency_hours * 3600
    with services.database.write() as session:
        answers = Idempotency(session, who.project_id)
        if key is not None:
            answers.delete_old(max_age_s)
            first = answers.find(route, key, max_age_s=max_age_s)
            if first is not None:
                if first.body_sha256 != body_sha256:
                    raise ApiProblem("idempotency_key_reused", "This Idempotency-Key came with another body before.")
                who.check(session)
                return _accepted(first.location, first.body, replayed=True)
        row, device = make(session)
        # What the workers log of the job is found by the request that made it, and its spans belong to that trace.
        row.request_id, row.traceparent = get_contextvars().get("request_id", ""), current_traceparent()
        submit(session, services.queue, row, device, after=spec.after)
        if spec.after:  # one that waits in vain has failed by now
            row = require_job(session, who, row.id, row.kind)
        body = show(row).model_dump(mode="json")
        location = f"{path}/{row.id}"
        who.record(session, row.id)
        if key is not None:
            answers.add(route, key, body_sha256=body_sha256, status=202, location=location, body=body)
    return _accepted(location, body, replayed=False)


def _accepted(location: str, body: dict[str, Any], *, replayed: bool) -> JSONResponse:
    headers = {"Location": location, **({"Idempotency-Replayed": "true"} if replayed else {})}
    return JSONResponse(body, status_code=202, headers=headers)


def require_job(session: Session, who: Access, job_id: str, kind: str = "prune") -> PruneJobRow:
    """The row as it is now; raises 404 for none, for a job of another kind, and for another project's."""
    row = Jobs(session).get(job_id, project_id=who.sees)
    if row is None or row.kind != kind:
        raise NotFound(NOUNS[kind], job_id)
    return row


def cancel_job(services: Services, who: Access, job_id: str, kind: str = "prune") -> PruneJobRow:
    """Stop the job: a queued one at once, a running one as soon as its worker has. Raises 409 for one that has ended."""
    with services.database.write() as session:
        require_job(session, who, job_id, kind)
        changed = Jobs(session).request_cancel(job_id)
        row = require_job(session, who, job_id, kind)
        if changed is None and row.status != JobStatus.CANCELLING:
            raise ApiProblem("job_ended", f"Job {job_id} has ended as {row.status}; there is nothing to cancel.")
        who.record(session)
    if row.turn is not None:
        services.queue.cancel(row.workflow_id)
    return row


def retry_job(services: Services, who: Access, job_id: str, kind: str = "prune") -> PruneJobRow:
    """Queue a failed or cancelled job once more, under its id. Raises 409 for another one."""
    with services.database.write() as session:
        row = require_job(session, who, job_id, kind)
        if row.status not in (JobStatus.FAILED, JobStatus.CANCELLED):
            raise ApiProblem(
                "job_not_retryable", f"Job {job_id} is {row.status}; only failed and cancelled jobs are retried."
            )
        if not _inputs_exist(session, row):
            raise ApiProblem("input_deleted", f"The model or dataset of job {job_id} was deleted; submit a new job.")
        check_jobs(session, services.settings, row.project_id)
        if Jobs(session).requeue(job_id) is None:
            raise ApiProblem("job_not_retryable", f"Job {job_id} was retried a moment ago.")
        schedule(session, services.queue, require_job(session, who, job_id, kind))
        who.record(session)
        return require_job(session, who, job_id, kind)


def named(session: Session, who: Access, job_ids: Sequence[str]) -> str:
    """The first of the jobs, by its id where the caller may know it."""
    own = Jobs(session).of_project(job_ids, who.sees)
    shown = [job_id for job_id in job_ids if job_id in own]
    return f"Job {shown[0]}" if shown else "A job of another project"


def _inputs_exist(session: Session, row: PruneJobRow) -> bool:
    """True when all inputs are there; they stay there until `session` commits."""
    model = row.model_id is not None and Models(session).get(row.model_id, share=True) is not None
    if not model or row.kind != "prune":
        return model
    return row.dataset_id is not None and Datasets(session).get(row.dataset_id, share=True) is not None
