"""/v1/prune-jobs: submit, look, cancel, retry."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.api import wire
from app.api.job_checks import check_job
from app.api.paging import Before, Limit, to_page
from app.api.submission import IdempotencyKey, SubmissionsDep, cancel_job, require_job, retry_job, submit_once
from app.auth.access import Access, Asker, JobSubmitter, Reader
from app.errors import responses
from app.handlers import no_such_method
from app.inspection import inspect, require_worker
from app.services import Services, ServicesDep
from app.store.models import DeviceRow, PruneJobRow
from app.store.repositories import Jobs
from secateur.schemas import JobStatus, Page, Preflight, PruneJob, PruneJobCreate

router = APIRouter(prefix="/v1/prune-jobs", tags=["prune jobs"])

_SPEC_CODES = (
    "unsupported_media_type",
    "body_too_large",
    "unknown_model",
    "unknown_dataset",
    "unknown_job",
    "unknown_device",
    "no_latency_table",
    "unknown_class",
    "duplicate_class",
    "class_not_mapped",
    "shape_mismatch",
)


@router.post(
    "",
    status_code=202,
    response_model=PruneJob,
    responses=responses("idempotency_key_reused", "job_quota", *_SPEC_CODES),
)
async def submit(
    who: JobSubmitter,
    spec: PruneJobCreate,
    services: ServicesDep,
    submissions: SubmissionsDep,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Submit a job. The answer comes at once; Location is where to watch it."""

    def make(session: Session) -> tuple[PruneJobRow, DeviceRow]:
        project_id, device = check_job(session, who, spec)
        job = Jobs.new(
            project_id=project_id,
            submitter=who.submitter,
            name=spec.name,
            spec=spec.model_dump(mode="json"),
            model_id=spec.model_id,
            dataset_id=spec.dataset_id,
            device_id=spec.device,
        )
        return job, device

    return await submit_once(services, submissions, who, "/v1/prune-jobs", spec, idempotency_key, make, wire.job)


@router.post("/validate", responses=responses("no_worker", "check_failed", "check_timeout", *_SPEC_CODES))
async def validate(who: Asker, spec: PruneJobCreate, services: ServicesDep) -> Preflight:
    """What the job would meet, without storing anything. Answers after a worker has looked at model and dataset."""
    await run_in_threadpool(_check_alone, who, spec, services)
    await require_worker(services)
    return Preflight.model_validate(await inspect(services, "job", {"spec": spec.model_dump(mode="json")}))


router.add_api_route("/validate", no_such_method, methods=["GET"], include_in_schema=False)


@router.get("", responses=responses("bad_cursor"))
def list_jobs(
    who: Reader,
    services: ServicesDep,
    before: Before,
    limit: Limit = 50,
    status: Annotated[list[JobStatus] | None, Query(description="Only jobs in one of these statuses.")] = None,
) -> Page[PruneJob]:
    """Newest first."""
    with services.database.read() as session:
        return to_page(
            Jobs(session).page(status=status or (), project_id=who.sees, before=before, limit=limit), PruneJob, wire.job
        )


@router.get("/{job_id}", responses=responses("not_found"))
def get_job(job_id: str, who: Reader, services: ServicesDep) -> PruneJob:
    """One job and where it stands."""
    with services.database.read() as session:
        return wire.job(require_job(session, who, job_id))


@router.post("/{job_id}/cancel", status_code=202, responses=responses("not_found", "job_ended"))
def cancel(job_id: str, who: JobSubmitter, services: ServicesDep) -> PruneJob:
    """Stop the job: a queued one at once, a running one as soon as its worker has. Asking twice is harmless."""
    return wire.job(cancel_job(services, who, job_id))


@router.post(
    "/{job_id}/retry",
    status_code=202,
    responses=responses("not_found", "job_not_retryable", "input_deleted", "job_quota"),
)
def retry(job_id: str, who: JobSubmitter, services: ServicesDep) -> PruneJob:
    """Run a failed or cancelled job once more, under its id."""
    return wire.job(retry_job(services, who, job_id))


def _check_alone(who: Access, spec: PruneJobCreate, services: Services) -> None:
    with services.database.read() as session:
        check_job(session, who, spec)
