"""/v1/datasets: images to score, train and judge with."""

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.concurrency import run_in_threadpool

from app.api import wire
from app.api.paging import Before, Limit, to_page
from app.auth.access import Access, Reader, Submitter, Uploader
from app.auth.limits import check_bytes
from app.errors import ApiProblem, NotFound, responses
from app.inspection import inspect, require_worker
from app.services import Services, ServicesDep
from app.sniff import check_dataset_head
from app.store.models import DatasetRow
from app.store.repositories import Datasets, Jobs
from app.uploads import Upload, check_room, received, upload_body
from secateur.schemas import Dataset, Name, Page

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

Mean = Annotated[float, Field(strict=True, ge=-10, le=10)]
Std = Annotated[float, Field(strict=True, gt=0, le=10)]


class DatasetForm(BaseModel):
    """Fields of a dataset upload, beside the part `file`."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    image_size: int = Field(strict=True, ge=8, le=2048)
    """Height and width the images are brought to."""
    mean: list[Mean] = Field(min_length=1, max_length=3)
    std: list[Std] = Field(min_length=1, max_length=3)
    class_map: dict[Name, Annotated[int, Field(strict=True, ge=0)]] | None = None

    @model_validator(mode="after")
    def _channels(self) -> "DatasetForm":
        if len(self.mean) != len(self.std) or len(self.mean) == 2:
            raise ValueError("mean and std need one number for each channel: 3, or 1 for grey images")
        return self


UPLOAD_BODY = upload_body(
    DatasetForm,
    "zip of train/<class>/<image>, ...",
    {
        "name": "",
        "image_size": "Pixels a side.",
        "mean": "JSON array, one number a channel, pixels in 0..1.",
        "std": "JSON array, one number a channel.",
        "class_map": "JSON object: folder name to output of the model.",
    },
)


@router.post(
    "",
    status_code=201,
    openapi_extra=UPLOAD_BODY,
    responses=responses(
        "storage_quota",
        "body_too_large",
        "storage_full",
        "unknown_upload",
        "upload_incomplete",
        "upload_busy",
        "checksum_mismatch",
        "pickle_refused",
        "unsupported_format",
        "upload_refused",
        "no_worker",
        "check_failed",
        "check_timeout",
    ),
)
async def upload_dataset(who: Uploader, request: Request, response: Response, services: ServicesDep) -> Dataset:
    """Upload a zip of an ImageFolder. Answers after a worker has decoded every image."""
    await run_in_threadpool(check_room, services, who, request)
    await require_worker(services)
    max_bytes = services.settings.max_dataset_bytes
    async with received(
        request, services, who, DatasetForm, max_bytes=max_bytes, check_head=check_dataset_head, purpose="dataset"
    ) as upload:
        form = upload.form
        payload = {"blob_sha256": upload.blob.sha256, **form.model_dump(exclude={"name"})}
        facts = await inspect(services, "dataset", payload)
        row = await run_in_threadpool(_add, services, who, upload, facts)
    response.headers["Location"] = f"/v1/datasets/{row.id}"
    return wire.dataset(row)


@router.get("", responses=responses("bad_cursor"))
def list_datasets(who: Reader, services: ServicesDep, before: Before, limit: Limit = 50) -> Page[Dataset]:
    """Newest first."""
    with services.database.read() as session:
        return to_page(Datasets(session).page(project_id=who.sees, before=before, limit=limit), Dataset, wire.dataset)


@router.get("/{dataset_id}", responses=responses("not_found"))
def get_dataset(dataset_id: str, who: Reader, services: ServicesDep) -> Dataset:
    """One dataset."""
    with services.database.read() as session:
        row = Datasets(session).get(dataset_id, project_id=who.sees)
        if row is None:
            raise NotFound("dataset", dataset_id)
        return wire.dataset(row)


@router.delete("/{dataset_id}", status_code=204, responses=responses("not_found", "dataset_in_use"))
def delete_dataset(dataset_id: str, who: Submitter, services: ServicesDep) -> None:
    """Delete the dataset and its file; refused while a job that has not ended uses it."""
    with services.database.write() as session:
        row = Datasets(session).get(dataset_id, project_id=who.sees, lock=True)
        if row is None:
            raise NotFound("dataset", dataset_id)
        if users := Jobs(session).active_of_dataset(dataset_id):
            raise ApiProblem("dataset_in_use", f"Job {users[0]} uses the dataset and has not ended.")
        Datasets(session).delete(row)
        who.record(session)
    services.drop_blobs([row.sha256])


def _add(services: Services, who: Access, upload: Upload[DatasetForm], facts: dict[str, Any]) -> DatasetRow:
    form = upload.form
    with services.database.write() as session:
        check_bytes(session, services.settings, who.project_id, upload.blob.size_bytes)
        row = Datasets(session).add(
            project_id=who.project_id,
            name=form.name,
            sha256=upload.blob.sha256,
            size_bytes=upload.blob.size_bytes,
            image_size=form.image_size,
            mean=list(form.mean),
            std=list(form.std),
            classes=facts["classes"],
            num_images=facts["num_images"],
            num_skipped=facts["num_skipped"],
            skipped=facts["skipped"],
            class_map=form.class_map,
        )
        who.record(session, row.id)
        return row
