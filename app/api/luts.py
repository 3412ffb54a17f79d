"""/v1/luts: latency tables."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.api import wire
from app.api.files import send_blob
from app.api.paging import Before, Limit, to_page
from app.errors import NotFound, responses
from app.services import ServicesDep
from app.store.repositories import Luts
from secateur.schemas import Lut, Page

router = APIRouter(prefix="/v1/luts", tags=["luts"])


@router.get("", responses=responses("bad_cursor"))
def list_luts(
    services: ServicesDep,
    before: Before,
    limit: Limit = 50,
    device: Annotated[str | None, Query(max_length=64, description="Only tables of this device.")] = None,
) -> Page[Lut]:
    """Newest first."""
    with services.database.read() as session:
        return to_page(Luts(session).page(device_id=device, before=before, limit=limit), Lut, wire.lut)


@router.get("/{lut_id}", responses=responses("not_found"))
def get_lut(lut_id: str, services: ServicesDep) -> Lut:
    """One table: its profile and how far it can be trusted."""
    with services.database.read() as session:
        row = Luts(session).get(lut_id)
        if row is None:
            raise NotFound("latency table", lut_id)
        return wire.lut(row)


@router.get("/{lut_id}/table", response_class=Response, responses=responses("not_found", "range_not_satisfiable"))
def download_lut(lut_id: str, request: Request, services: ServicesDep) -> Response:
    """The table itself, as JSON."""
    with services.database.read() as session:
        row = Luts(session).get(lut_id)
    if row is None:
        raise NotFound("latency table", lut_id)
    name = f"lut-{row.device_id}-{row.fingerprint}.json"
    return send_blob(request, services, row.blob_sha256, media_type="application/json", name=name)
