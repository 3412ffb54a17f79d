"""/v1/lut-builds: jobs that measure what a model needs to know of a device, and prune nothing."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy.orm import Session

from app.api import wire
from app.api.job_checks import Faults, check_after
from app.api.paging import Before, Limit, to_page
from app.api.submission import IdempotencyKey, SubmissionsDep, cancel_job, require_job, retry_job, submit_once
from app.auth.access import Access, DeviceKeeper, Reader
from app.errors import responses
from app.services import ServicesDep
from app.store.models import DeviceRow, PruneJobRow
from app.store.repositories import Datasets, Devices, Jobs, Models
from secateur.lut_schemas import LutBuild, LutBuildCreate
from secateur.schemas import JobStatus, Page

router = APIRouter(prefix="/v1/lut-builds", tags=["latency tables"])

_KIND = "lut_build"


@router.post(
    "",
    status_code=202,
    response_model=LutBuild,
    responses=responses(
        "unsupported_media_type",
        "body_too_large",
        "idempotency_key_reused",
        "job_quota",
        "unknown_model",
        "unknown_dataset",
        "unknown_device",
        "unknown_job",
        "image_size_needed",
        "shape_mismatch",
    ),
)
async def submit(
    who: DeviceKeeper,
    spec: LutBuildCreate,
    services: ServicesDep,
    submissions: SubmissionsDep,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Measure every entry the model needs. The answer comes at once; Location is where to watch it."""

    def make(session: Session) -> tuple[PruneJobRow, DeviceRow]:
        project_id, image_size, device = _settle(session, who, spec)
        sized = spec.model_copy(update={"image_size": image_size})
        job = Jobs.new(
            project_id=project_id,
            submitter=who.submitter,
            kind=_KIND,
            name=spec.name,
            spec=sized.model_dump(mode="json"),
            model_id=spec.model_id,
            dataset_id=None,
            device_id=spec.device,
        )
        return job, device

    return await submit_once(services, submissions, who, "/v1/lut-builds", spec, idempotency_key, make, wire.lut_build)


@router.get("", responses=responses("bad_cursor"))
def list_builds(
    who: Reader,
    services: ServicesDep,
    before: Before,
    limit: Limit = 50,
    status: Annotated[list[JobStatus] | None, Query(description="Only builds in one of these statuses.")] = None,
) -> Page[LutBuild]:
    """Newest first."""
    with services.database.read() as session:
        page = Jobs(session).page(kind=_KIND, status=status or (), project_id=who.sees, before=before, limit=limit)
        return to_page(page, LutBuild, wire.lut_build)


@router.get("/{build_id}", responses=responses("not_found"))
def get_build(build_id: str, who: Reader, services: ServicesDep) -> LutBuild:
    """One build and where it stands."""
    with services.database.read() as session:
        return wire.lut_build(require_job(session, who, build_id, _KIND))


@router.post("/{build_id}/cancel", status_code=202, responses=responses("not_found", "job_ended"))
def cancel(build_id: str, who: DeviceKeeper, services: ServicesDep) -> LutBuild:
    """Stop the build; what it has measured is kept for its retry."""
    return wire.lut_build(cancel_job(services, who, build_id, _KIND))


@router.post(
    "/{build_id}/retry",
    status_code=202,
    responses=responses("not_found", "job_not_retryable", "input_deleted", "job_quota"),
)
def retry(build_id: str, who: DeviceKeeper, services: ServicesDep) -> LutBuild:
    """Go on with a failed or cancelled build, under its id."""
    return wire.lut_build(retry_job(services, who, build_id, _KIND))


def _settle(session: Session, who: Access, spec: LutBuildCreate) -> tuple[str, int, DeviceRow]:
    """The model's project, the side of the images and the device; raises ApiProblem (422) unless all the build names exists and fits."""
    faults = Faults()
    model = Models(session).get(spec.model_id, project_id=who.sees, share=True)
    dataset = Datasets(session).get(spec.dataset_id, project_id=who.sees) if spec.dataset_id else None
    if model is None:
        faults.add("unknown_model", "/model_id", f"There is no model {spec.model_id!r}.")
    if spec.dataset_id and dataset is None:
        faults.add("unknown_dataset", "/dataset_id", f"There is no dataset {spec.dataset_id!r}.")
    device = Devices(session).get(spec.device)
    if device is None:
        faults.add("unknown_device", "/device", f"There is no device {spec.device!r}; GET /v1/devices lists those.")
    check_after(session, model.project_id if model else who.sees, spec, faults)
    faults.raise_if_any()
    fixed = model.input_shape[1] if model and model.input_shape else None
    size = spec.image_size or (dataset.image_size if dataset else fixed)
    if size is None:
        faults.add("image_size_needed", "/image_size", "Weights fit any image size: say which, or name a dataset.")
    elif fixed is not None and fixed != size:
        faults.add("shape_mismatch", "/image_size", f"The model takes images of {fixed} pixels, not of {size}.")
    faults.raise_if_any()
    assert model is not None and size is not None and device is not None
    return model.project_id, size, device
