"""/v1/luts: latency tables, imported, published, deleted; their files are in `lut_files`."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.api import wire
from app.api.paging import Before, Limit, to_page
from app.api.submission import named
from app.auth.access import Access, DeviceKeeper, Reader, TableUploader
from app.errors import ApiProblem, NotFound, responses
from app.handlers import no_such_method
from app.inspection import produced, require_worker
from app.services import Services, ServicesDep
from app.sniff import check_table_head, is_json
from app.store.models import LutRow
from app.store.repositories import Devices, Jobs, Luts
from app.store.repositories.luts import FIGURES
from app.uploads import Upload, received
from secateur.lut_schemas import DeviceId, Lut, LutComparison, LutVersion
from secateur.schemas import Batch, ErrorDetail, Page, Threads, Title

router = APIRouter(prefix="/v1/luts", tags=["latency tables"])

Text = Annotated[str, Field(max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$")]
IfMatch = Annotated[
    str | None, Header(alias="If-Match", max_length=200, description="ETag of the table as you know it.")
]
Number = Annotated[int, Query(ge=1, lt=2**31, description="Number of a version; left out: the newest.")]


class LutForm(BaseModel):
    """Fields of a table upload, beside the part `file`. All but `device` and `name` are for CSV, which lacks them."""

    model_config = ConfigDict(extra="forbid")

    device: DeviceId
    name: Title = ""
    hardware: Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""
    runtime: Text = "imported"
    runtime_version: Text = ""
    threads: Threads = 1
    batch: Batch | None = None
    dtype: Text = "fp32"
    layout: Text = "nchw"
    huge_pages: bool = False


_FIELDS = {
    "file": {"type": "string", "format": "binary", "description": "A table's JSON, or CSV."},
    "device": {"type": "string", "description": "Id of the device it belongs to."},
    "name": {"type": "string", "description": "What to call the file."},
    "batch": {"type": "integer", "description": "CSV: the batch whose rows are read, where the file has several."},
    **{
        name: {"type": "string", "description": "CSV: of the device profile."}
        for name in ("hardware", "runtime", "runtime_version", "threads", "dtype", "layout", "huge_pages")
    },
}
UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": {"type": "object", "required": ["file", "device"], "properties": _FIELDS}}
        },
    }
}


@router.get("", responses=responses("bad_cursor"))
def list_luts(
    who: Reader,
    services: ServicesDep,
    before: Before,
    limit: Limit = 50,
    device: Annotated[str | None, Query(max_length=64, description="Only tables of this device.")] = None,
    runtime: Annotated[str | None, Query(max_length=64, description="Only of this runtime.")] = None,
    threads: Annotated[int | None, Query(ge=1, le=256, description="Only of so many threads.")] = None,
    batch: Annotated[int | None, Query(ge=1, le=1024, description="Only of this batch.")] = None,
    published: Annotated[bool | None, Query(description="Only published tables, or only the others.")] = None,
) -> Page[Lut]:
    """Newest first."""
    with services.database.read() as session:
        page = Luts(session).page(
            device_id=device, runtime=runtime, threads=threads, batch=batch, published=published,
            before=before, limit=limit,
        )  # fmt: skip
        return to_page(page, Lut, wire.lut)


@router.post(
    "",
    status_code=201,
    openapi_extra=UPLOAD_BODY,
    responses=responses(
        "body_too_large",
        "unsupported_format",
        "upload_refused",
        "unknown_device",
        "lut_published",
        "no_worker",
        "check_failed",
        "check_timeout",
    ),
)
async def import_lut(who: TableUploader, request: Request, response: Response, services: ServicesDep) -> Lut:
    """Import a table, as JSON or CSV. Answers after a worker has read it.

    Where the device has a table of that profile, the import makes a new version of it: its entries win, the others stay.
    """
    await require_worker(services)
    max_bytes = services.settings.max_lut_bytes
    async with received(request, services, who, LutForm, max_bytes=max_bytes, check_head=check_table_head) as upload:
        await run_in_threadpool(_check_device, services, upload.form.device)
        about = upload.form.model_dump(exclude={"device", "name"})
        about["hardware"] = about["hardware"] or upload.form.device
        payload = {
            "blob_sha256": upload.blob.sha256,
            "format": "json" if is_json(upload.head) else "csv",
            "profile": about,
        }
        known: LutRow | None = None
        while True:
            base = known.blob_sha256 if known else None
            async with produced(services, "lut", {**payload, "known_sha256": base}) as facts:
                row, stored = await run_in_threadpool(_store, services, who, upload, facts, known)
            if stored and row is not None:
                break
            known = row  # there is a table of this profile, or it has moved on: merge into it
    response.headers["Location"] = f"/v1/luts/{row.id}"
    response.headers["ETag"] = _etag(row)
    return wire.lut(row)


@router.get(
    "/compare",
    responses=responses("not_found", "no_worker", "check_failed", "check_timeout"),
)
async def compare_luts(
    who: Reader,
    services: ServicesDep,
    a: Annotated[str, Query(max_length=64, description="Id of a table.")],
    b: Annotated[str, Query(max_length=64, description="Id of the other one.")],
) -> LutComparison:
    """How table `b` differs from `a`, entry by entry, in their newest versions."""
    rows = [await run_in_threadpool(_read, services, lut_id) for lut_id in (a, b)]
    await require_worker(services)
    payload = {f"{name}_sha256": row.blob_sha256 for name, row in zip("ab", rows, strict=True)}
    async with produced(services, "lut_pair", payload) as facts:
        return LutComparison.model_validate({"a": a, "b": b, **facts})


router.add_api_route("/compare", no_such_method, methods=["DELETE"], include_in_schema=False)


@router.get("/{lut_id}", responses=responses("not_found"))
def get_lut(lut_id: str, who: Reader, response: Response, services: ServicesDep) -> Lut:
    """One table: its profile and how far it can be trusted."""
    row = _read(services, lut_id)
    response.headers["ETag"] = _etag(row)
    return wire.lut(row)


@router.delete(
    "/{lut_id}",
    status_code=204,
    responses=responses("not_found", "lut_in_use", "lut_published", "precondition_failed"),
)
def delete_lut(lut_id: str, who: DeviceKeeper, services: ServicesDep, if_match: IfMatch = None) -> None:
    """Delete the table with all its versions; refused while it is published or a job that has not ended may use it."""
    with services.database.write() as session:
        row = _changed(session, lut_id, if_match)
        if row.published_version is not None:
            raise ApiProblem("lut_published", "The table is published: unpublish it first.")
        setting = {name: row.profile.get(name) for name in ("threads", "batch", "runtime")}
        if users := Jobs(session).active_on_device(row.device_id, setting):
            raise ApiProblem("lut_in_use", f"{named(session, who, users)} uses the table and has not ended.")
        dropped = Luts(session).delete(row)
        who.record(session)
    services.drop_blobs(dropped)


@router.get("/{lut_id}/versions", responses=responses("not_found", "bad_cursor"))
def list_versions(
    lut_id: str, who: Reader, services: ServicesDep, before: Before, limit: Limit = 50
) -> Page[LutVersion]:
    """Every state the table has had, newest first."""
    with services.database.read() as session:
        require_lut(session, lut_id)
        page = Luts(session).versions(lut_id, before=before, limit=limit)
        own = Jobs(session).of_project([row.job_id for row in page.rows if row.job_id], who.sees)
        return to_page(page, LutVersion, lambda row: wire.lut_version(row, own))


@router.post("/{lut_id}/publish", responses=responses("not_found", "precondition_failed"))
def publish_lut(
    lut_id: str,
    who: DeviceKeeper,
    response: Response,
    services: ServicesDep,
    version: Number | None = None,
    if_match: IfMatch = None,
) -> Lut:
    """Make a version, the newest unless one is named, the team's reference: no import changes it, nobody deletes it.

    Jobs may still add entries they measure; those make new versions, which stay unpublished until this is asked again.
    """
    return _publish(services, who, response, lut_id, if_match, version or "newest")


@router.post("/{lut_id}/unpublish", responses=responses("not_found", "precondition_failed"))
def unpublish_lut(
    lut_id: str, who: DeviceKeeper, response: Response, services: ServicesDep, if_match: IfMatch = None
) -> Lut:
    """Let the table be changed and deleted again."""
    return _publish(services, who, response, lut_id, if_match, None)


def require_lut(session: Session, lut_id: str, *, lock: bool = False) -> LutRow:
    """The row as it is now; raises 404."""
    row = Luts(session).get(lut_id, lock=lock)
    if row is None:
        raise NotFound("latency table", lut_id)
    return row


def _read(services: Services, lut_id: str) -> LutRow:
    with services.database.read() as session:
        return require_lut(session, lut_id)


def _publish(
    services: Services,
    who: Access,
    response: Response,
    lut_id: str,
    if_match: str | None,
    version: int | Literal["newest"] | None,
) -> Lut:
    with services.database.write() as session:
        row = _changed(session, lut_id, if_match)
        number = row.version if version == "newest" else version
        if number is not None and Luts(session).version(lut_id, number) is None:
            raise NotFound("version", str(number))
        Luts(session).publish(row, number)
        who.record(session)
    response.headers["ETag"] = _etag(row)
    return wire.lut(row)


def _changed(session: Session, lut_id: str, if_match: str | None) -> LutRow:
    """The row, locked; raises 404, and 412 when it is not the one the caller knows."""
    row = require_lut(session, lut_id, lock=True)
    if if_match not in (None, "*") and _etag(row) not in [tag.strip() for tag in str(if_match).split(",")]:
        raise ApiProblem("precondition_failed", f"The table has changed: its ETag is {_etag(row)} now.")
    return row


def _etag(row: LutRow) -> str:
    return f'"{row.version}-{row.published_version or 0}"'


def _check_device(services: Services, device_id: str) -> None:
    with services.database.read() as session:
        if Devices(session).get(device_id) is None:
            raise _unknown(device_id)


def _unknown(device_id: str) -> ApiProblem:
    detail = f"There is no device {device_id!r}; make it with POST /v1/devices."
    return ApiProblem("unknown_device", detail, errors=[ErrorDetail(pointer="/device", detail=detail)])


def _store(
    services: Services, who: Access, upload: Upload[LutForm], facts: dict[str, Any], known: LutRow | None
) -> tuple[LutRow | None, bool]:
    """Store what the worker made of the upload and of `known`, or return what it must be merged with, and False."""
    form, file = upload.form, facts["files"]["table.json"]
    with services.database.write() as session:
        if Devices(session).get(form.device, share=True) is None:
            raise _unknown(form.device)
        row = Luts(session).find(form.device, facts["fingerprint"], lock=True)
        if row is not None and row.published_version is not None:
            raise ApiProblem("lut_published", f"The table {row.id} is published: it takes no import.")
        if (row.version if row else 0) != (known.version if known else 0):
            return row, False
        stored = Luts(session).save(
            device_id=form.device, fingerprint=facts["fingerprint"], profile=facts["profile"],
            blob_sha256=file["sha256"], size_bytes=file["size_bytes"], coarse=facts["coarse"], name=form.name,
            **{name: facts[name] for name in FIGURES if name in facts},
        )  # fmt: skip
        who.record(session, stored.id)
        return stored, True
