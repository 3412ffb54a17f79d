"""/v1/prune-jobs/{id}/plan, /report, /artifacts: what a job left."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.api import wire
from app.api.files import file_responses, send_blob
from app.api.submission import require_job
from app.auth.access import Access, Reader
from app.errors import ApiProblem, responses
from app.services import Services, ServicesDep
from app.store.models import JobArtifactRow
from app.store.repositories import Artifacts
from secateur.schemas import Artifact, Page

router = APIRouter(prefix="/v1/prune-jobs", tags=["prune jobs"])

_JSON, _HTML = "application/json", "text/html"
_FILE: dict[int | str, dict[str, Any]] = {
    **file_responses(media_types=("application/octet-stream", _JSON, _HTML)),
    307: {"description": "The file is at Location, for a few minutes (SECATEUR_STORE_PRESIGN)."},
}


@router.get("/{job_id}/artifacts", responses=responses("not_found"))
def list_artifacts(job_id: str, who: Reader, services: ServicesDep) -> Page[Artifact]:
    """The files the job left, by name."""
    with services.database.read() as session:
        require_job(session, who, job_id)
        return Page[Artifact](items=[wire.artifact(row) for row in Artifacts(session).list(job_id)])


@router.head("/{job_id}/artifacts/{name}", include_in_schema=False)
@router.get(
    "/{job_id}/artifacts/{name}",
    response_class=Response,
    responses=_FILE,
)
def download_artifact(job_id: str, name: str, who: Reader, request: Request, services: ServicesDep) -> Response:
    """One file; ranges and ETags are honoured, so that a broken download can go on."""
    row = _artifact(services, who, job_id, name)
    # Reports stay with us: elsewhere a page would come without the policy that keeps it from doing anything.
    redirect = row.media_type == "application/octet-stream"
    return send_blob(request, services, row.sha256, media_type=row.media_type, name=row.name, redirect=redirect)


@router.head("/{job_id}/plan", include_in_schema=False)
@router.get("/{job_id}/plan", response_class=Response, responses=file_responses(media_types=(_JSON,)))
def get_plan(job_id: str, who: Reader, request: Request, services: ServicesDep) -> Response:
    """The plan: widths per layer, value, bound, gap."""
    row = _artifact(services, who, job_id, "plan.json")
    return send_blob(request, services, row.sha256, media_type="application/json", name=row.name, inline=True)


@router.head("/{job_id}/report", include_in_schema=False)
@router.get("/{job_id}/report", response_class=Response, responses=file_responses(media_types=(_JSON, _HTML)))
def get_report(
    job_id: str,
    who: Reader,
    request: Request,
    services: ServicesDep,
    format: Annotated[
        Literal["json", "html"] | None, Query(description="Overrides what the Accept header asks for.")
    ] = None,
) -> Response:
    """The report, as JSON or as a page to read."""
    wanted = format or ("html" if "text/html" in request.headers.get("accept", "") else "json")
    row = _artifact(services, who, job_id, f"report.{wanted}")
    media_type = "text/html; charset=utf-8" if wanted == "html" else "application/json"
    response = send_blob(request, services, row.sha256, media_type=media_type, name=row.name, inline=True)
    response.headers["Vary"] = "Accept"
    return response


def _artifact(services: Services, who: Access, job_id: str, name: str) -> JobArtifactRow:
    with services.database.read() as session:
        job = require_job(session, who, job_id)
        row = Artifacts(session).get(job_id, name)
    if row is None or row.hidden:
        raise ApiProblem("not_found", f"Job {job_id} has no file {name!r}; it is {job.status}.")
    return row
