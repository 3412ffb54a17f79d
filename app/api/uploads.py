"""/v1/uploads: big files in several pieces, which may come over several connections."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from starlette.concurrency import run_in_threadpool

from app import pieces
from app.auth.access import Asker, Submitter, Uploader
from app.auth.limits import check_bytes
from app.errors import ApiProblem, NotFound, responses
from app.services import Services, ServicesDep
from app.store.models import UploadRow
from app.store.repositories import Uploads
from secateur.upload_schemas import CHECKSUM, OFFSET, PIECE, Upload, UploadCreate
from secateur.wire import DIGITS

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])

_BODY = {
    "requestBody": {"required": True, "content": {PIECE: {"schema": {"type": "string", "format": "binary"}}}},
}
Offset = Annotated[str, Header(alias=OFFSET, pattern=DIGITS, description="Bytes that the service has already.")]
Checksum = Annotated[str | None, Header(alias=CHECKSUM, max_length=200, description="`sha256 <base64>` of the body.")]


@router.post(
    "",
    status_code=201,
    responses=responses("unsupported_media_type", "body_too_large", "storage_quota", "storage_full"),
)
def begin_upload(who: Uploader, body: UploadCreate, response: Response, services: ServicesDep) -> Upload:
    """Announce a file; send its bytes to the Location with PATCH, then name it as `upload_id` instead of a `file`."""
    limit = pieces.max_bytes(services, body.purpose)
    if body.size_bytes > limit:
        raise ApiProblem("body_too_large", f"The file may have {limit} bytes at most.")
    pieces.require_room(services, body.size_bytes)
    with services.database.write() as session:
        announced_bytes = Uploads(session).announced_bytes(who.project_id) + body.size_bytes
        check_bytes(session, services.settings, who.project_id, announced_bytes)
        row = Uploads(session).add(
            project_id=who.project_id, purpose=body.purpose, size_bytes=body.size_bytes, sha256=body.sha256
        )
        who.record(session, row.id)
    response.headers["Location"] = f"/v1/uploads/{row.id}"
    return _shown(services, row, response)


@router.head("/{upload_id}", include_in_schema=False)
@router.get("/{upload_id}", responses=responses("not_found"))
def get_upload(upload_id: str, who: Asker, response: Response, services: ServicesDep) -> Upload:
    """How much of it is there; Upload-Offset says so too."""
    with services.database.read() as session:
        row = Uploads(session).get(upload_id, project_id=who.sees)
    if row is None:
        raise NotFound("upload", upload_id)
    return _shown(services, row, response)


@router.patch(
    "/{upload_id}",
    status_code=204,
    openapi_extra=_BODY,
    responses=responses(
        "not_found", "offset_mismatch", "upload_busy", "body_too_large", "unsupported_media_type",
        "pickle_refused", "unsupported_format", "checksum_mismatch", "storage_full",
    ),
)  # fmt: skip
async def add_to_upload(
    upload_id: str, who: Asker, request: Request, services: ServicesDep, offset: Offset, checksum: Checksum = None
) -> Response:
    """Send the next bytes, a few dozen megabytes at a time; Upload-Offset of the answer says how many are there now."""
    if request.headers.get("content-type") != PIECE:
        raise ApiProblem("unsupported_media_type", f"Send the bytes as {PIECE}.")
    taken = pieces.taken(services, who.sees, upload_id)
    spooled = await run_in_threadpool(taken.__enter__)
    try:
        end = await pieces.add_piece(request, services, spooled, offset=int(offset), checksum=checksum)
    finally:
        taken.__exit__(None, None, None)
    return Response(status_code=204, headers={OFFSET: str(end), "Cache-Control": "no-store"})


@router.delete("/{upload_id}", status_code=204, responses=responses("not_found", "upload_busy"))
def delete_upload(upload_id: str, who: Submitter, services: ServicesDep) -> None:
    """Forget the upload and its bytes."""
    with pieces.taken(services, who.sees, upload_id):
        pieces.forget(services, upload_id)


def _shown(services: Services, row: UploadRow, response: Response) -> Upload:
    offset = pieces.received_bytes(services, row)
    response.headers.update({OFFSET: str(offset), "Upload-Length": str(row.size_bytes), "Cache-Control": "no-store"})
    return Upload(
        id=row.id,
        purpose="model" if row.purpose == "model" else "dataset",
        size_bytes=row.size_bytes,
        offset=offset,
        sha256=row.sha256,
        complete=offset == row.size_bytes,
        created_at=row.created_at,
        expires_at=row.touched_at + timedelta(hours=services.settings.uploads_hours),
    )
