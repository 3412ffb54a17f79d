"""/v1/prune-jobs: submit, look, cancel, retry."""

import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.responses import JSONResponse
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.api import wire
from app.api.job_checks import check_job
from app.api.paging import Before, Limit, to_page
from app.errors import ApiProblem, NotFound, responses
from app.inspection import inspect, require_worker
from app.services import Services, ServicesDep
from app.store.models import PruneJobRow
from app.store.repositories import Datasets, Idempotency, Jobs, Models
from secateur.schemas import JobStatus, Page, Preflight, PruneJob, PruneJobCreate

router = APIRouter(prefix="/v1/prune-jobs", tags=["prune jobs"])

_ROUTE = "POST /v1/prune-jobs"
_SPEC_CODES = (
    "unsupported_media_type",
    "body_too_large",
    "unknown_model",
    "unknown_dataset",
    "unknown_device",
    "no_latency_table",
    "unknown_class",
    "duplicate_class",
    "class_not_mapped",
    "shape_mismatch",
)

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


@router.post("", status_code=202, response_model=PruneJob, responses=responses("idempotency_key_reused", *_SPEC_CODES))
def submit(spec: PruneJobCreate, services: ServicesDep, idempotency_key: IdempotencyKey = None) -> JSONResponse:
    """Submit a job. The answer comes at once; Location is where to watch it."""
    for last_try in (False, True):
        try:
            return _submit(spec, services, idempotency_key)
        except IntegrityError:
            # Another request has used the key since we looked: its answer is there now.
            if last_try or idempotency_key is None:
                raise
    raise AssertionError("unreachable")


@router.post("/validate", responses=responses("no_worker", "check_failed", "check_timeout", *_SPEC_CODES))
async def validate(spec: PruneJobCreate, services: ServicesDep) -> Preflight:
    """What the job would meet, without storing anything. Answers after a worker has looked at model and dataset."""
    await run_in_threadpool(_check_alone, spec, services)
    await require_worker(services)
    return Preflight.model_validate(await inspect(services, "job", {"spec": spec.model_dump(mode="json")}))


@router.get("", responses=responses("bad_cursor"))
def list_jobs(
    services: ServicesDep,
    before: Before,
    limit: Limit = 50,
    status: Annotated[list[JobStatus] | None, Query(description="Only jobs in one of these statuses.")] = None,
) -> Page[PruneJob]:
    """Newest first."""
    with services.database.read() as session:
        return to_page(Jobs(session).page(status=status or (), before=before, limit=limit), PruneJob, wire.job)


@router.get("/{job_id}", responses=responses("not_found"))
def get_job(job_id: str, services: ServicesDep) -> PruneJob:
    """One job and where it stands."""
    with services.database.read() as session:
        return wire.job(require_job(session, job_id))


@router.post("/{job_id}/cancel", status_code=202, responses=responses("not_found", "job_ended"))
def cancel(job_id: str, services: ServicesDep) -> PruneJob:
    """Stop the job: a queued one at once, a running one as soon as its worker has. Asking twice is harmless."""
    with services.database.write() as session:
        changed = Jobs(session).request_cancel(job_id)
        row = require_job(session, job_id)
        if changed is None and row.status != JobStatus.CANCELLING:
            raise ApiProblem("job_ended", f"Job {job_id} has ended as {row.status}; there is nothing to cancel.")
    services.queue.cancel(row.workflow_id)
    return wire.job(row)


@router.post("/{job_id}/retry", status_code=202, responses=responses("not_found", "job_not_retryable", "input_deleted"))
def retry(job_id: str, services: ServicesDep) -> PruneJob:
    """Run a failed or cancelled job once more, under its id."""
    with services.database.write() as session:
        row = require_job(session, job_id)
        if row.status not in (JobStatus.FAILED, JobStatus.CANCELLED):
            raise ApiProblem(
                "job_not_retryable", f"Job {job_id} is {row.status}; only failed and cancelled jobs are retried."
            )
        if not _inputs_exist(session, row):
            raise ApiProblem("input_deleted", f"The model or dataset of job {job_id} was deleted; submit a new job.")
        workflow_id = Jobs(session).requeue(job_id)
        if workflow_id is None:
            raise ApiProblem("job_not_retryable", f"Job {job_id} was retried a moment ago.")
        services.queue.enqueue_prune(session, job_id=job_id, workflow_id=workflow_id, device_id=row.device_id)
        return wire.job(require_job(session, job_id))


def require_job(session: Session, job_id: str) -> PruneJobRow:
    """The row as it is now; raises 404."""
    row = Jobs(session).get(job_id)
    if row is None:
        raise NotFound("job", job_id)
    return row


def _submit(spec: PruneJobCreate, services: Services, key: str | None) -> JSONResponse:
    body_sha256 = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()
    max_age_s = services.settings.idempotency_hours * 3600
    with services.database.write() as session:
        answers = Idempotency(session)
        if key is not None:
            answers.delete_old(max_age_s)
            first = answers.find(_ROUTE, key, max_age_s=max_age_s)
            if first is not None:
                if first.body_sha256 != body_sha256:
                    raise ApiProblem("idempotency_key_reused", "This Idempotency-Key came with another body before.")
                return _accepted(first.location, first.body, replayed=True)
        check_job(session, spec)
        row = Jobs(session).add(
            name=spec.name,
            spec=spec.model_dump(mode="json"),
            model_id=spec.model_id,
            dataset_id=spec.dataset_id,
            device_id=spec.device,
        )
        services.queue.enqueue_prune(session, job_id=row.id, workflow_id=row.workflow_id, device_id=row.device_id)
        location, body = f"/v1/prune-jobs/{row.id}", wire.job(row).model_dump(mode="json")
        if key is not None:
            answers.add(_ROUTE, key, body_sha256=body_sha256, status=202, location=location, body=body)
    return _accepted(location, body, replayed=False)


def _accepted(location: str, body: dict[str, Any], *, replayed: bool) -> JSONResponse:
    headers = {"Location": location, **({"Idempotency-Replayed": "true"} if replayed else {})}
    return JSONResponse(body, status_code=202, headers=headers)


def _check_alone(spec: PruneJobCreate, services: Services) -> None:
    with services.database.read() as session:
        check_job(session, spec)


def _inputs_exist(session: Session, row: PruneJobRow) -> bool:
    """True when both inputs are there; they stay there until `session` commits."""
    return (
        row.model_id is not None
        and row.dataset_id is not None
        and Models(session).get(row.model_id, share=True) is not None
        and Datasets(session).get(row.dataset_id, share=True) is not None
    )
