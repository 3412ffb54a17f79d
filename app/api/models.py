"""/v1/models: networks to prune."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from app.api import wire
from app.api.paging import Before, Limit, to_page
from app.auth.access import Access, Reader, Submitter, Uploader
from app.auth.limits import check_bytes
from app.errors import ApiProblem, NotFound, responses
from app.inspection import inspect, require_worker
from app.services import Services, ServicesDep
from app.sniff import check_model_head, file_kind
from app.store.models import ModelRow
from app.store.repositories import Jobs, Models
from app.uploads import Upload, check_room, received, upload_body
from secateur.schemas import ErrorDetail, Model, Name, Page

router = APIRouter(prefix="/v1/models", tags=["models"])

_ARCH = re.compile(r"onnx|torchvision/\w{1,80}|timm/[\w.-]{1,120}|cifar/resnet(20|32|44|56|110)(-[ab])?")


class ModelForm(BaseModel):
    """Fields of a model upload, beside the part `file`."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    arch: Annotated[str, Field(max_length=200)]
    class_names: list[Name] | None = Field(default=None, max_length=100_000)


UPLOAD_BODY = upload_body(
    ModelForm,
    "safetensors weights or an ONNX file",
    {
        "name": "",
        "arch": "Architecture of the weights, or `onnx`.",
        "class_names": "JSON array: the name of each output.",
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
        "unknown_arch",
        "no_worker",
        "check_failed",
        "check_timeout",
    ),
)
async def upload_model(who: Uploader, request: Request, response: Response, services: ServicesDep) -> Model:
    """Upload weights with the name of their architecture, or an ONNX file. Answers after a worker has loaded them."""
    await run_in_threadpool(check_room, services, who, request)
    await require_worker(services)
    max_bytes = services.settings.max_model_bytes
    async with received(
        request, services, who, ModelForm, max_bytes=max_bytes, check_head=check_model_head, purpose="model"
    ) as upload:
        _check_arch(upload)
        form, blob = upload.form, upload.blob
        payload = {"arch": form.arch, "blob_sha256": blob.sha256, "class_names": form.class_names}
        facts = await inspect(services, "model", payload)
        row = await run_in_threadpool(_add, services, who, upload, facts)
    response.headers["Location"] = f"/v1/models/{row.id}"
    return wire.model(row)


@router.get("", responses=responses("bad_cursor"))
def list_models(who: Reader, services: ServicesDep, before: Before, limit: Limit = 50) -> Page[Model]:
    """Newest first."""
    with services.database.read() as session:
        return to_page(Models(session).page(project_id=who.sees, before=before, limit=limit), Model, wire.model)


@router.get("/{model_id}", responses=responses("not_found"))
def get_model(model_id: str, who: Reader, services: ServicesDep) -> Model:
    """One model."""
    with services.database.read() as session:
        row = Models(session).get(model_id, project_id=who.sees)
        if row is None:
            raise NotFound("model", model_id)
        return wire.model(row)


@router.delete("/{model_id}", status_code=204, responses=responses("not_found", "model_in_use"))
def delete_model(model_id: str, who: Submitter, services: ServicesDep) -> None:
    """Delete the model and its file; refused while a job that has not ended uses it."""
    with services.database.write() as session:
        row = Models(session).get(model_id, project_id=who.sees, lock=True)
        if row is None:
            raise NotFound("model", model_id)
        if users := Jobs(session).active_of_model(model_id):
            raise ApiProblem("model_in_use", f"Job {users[0]} uses the model and has not ended.")
        Models(session).delete(row)
        who.record(session)
    services.drop_blobs([row.sha256])


def _check_arch(upload: Upload[ModelForm]) -> None:
    arch = upload.form.arch
    if not _ARCH.fullmatch(arch):
        detail = (
            f"{arch!r} is no architecture of ours. Use `torchvision/<name>`, `timm/<name>`, "
            "`cifar/resnet20|32|44|56|110` (with `-a` or `-b`), or `onnx`."
        )
        raise ApiProblem("unknown_arch", detail, errors=[ErrorDetail(pointer="/arch", detail=detail)])
    kind = file_kind(upload.head)
    if (arch == "onnx") != (kind == "onnx"):
        wanted = "an ONNX file" if arch == "onnx" else "safetensors weights"
        raise ApiProblem("unsupported_format", f"The architecture {arch!r} goes with {wanted}; the file is {kind}.")


def _add(services: Services, who: Access, upload: Upload[ModelForm], facts: dict[str, Any]) -> ModelRow:
    with services.database.write() as session:
        check_bytes(session, services.settings, who.project_id, upload.blob.size_bytes)
        row = Models(session).add(
            project_id=who.project_id,
            name=upload.form.name,
            arch=upload.form.arch,
            sha256=upload.blob.sha256,
            size_bytes=upload.blob.size_bytes,
            num_parameters=facts["num_parameters"],
            num_outputs=facts["num_outputs"],
            input_shape=facts["input_shape"],
            class_names=upload.form.class_names,
        )
        who.record(session, row.id)
        return row
