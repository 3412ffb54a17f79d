"""/v1/luts/{id}/file and /plots: a table as JSON or CSV, and its pictures, made by a worker when first asked for."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app.api.files import file_responses, send_blob
from app.api.luts import Number, require_lut
from app.auth.access import Reader
from app.errors import NotFound
from app.inspection import produced, require_worker
from app.services import Services, ServicesDep
from app.store.models import LutRow, LutVersionRow
from app.store.repositories import Luts

router = APIRouter(prefix="/v1/luts", tags=["latency tables"])

Plot = Literal["staircases", "heatmaps", "accuracy"]

_MADE = ("no_worker", "check_failed", "check_timeout")
_TABLE = file_responses(*_MADE, media_types=("application/json", "text/csv"))
_PICTURE = file_responses(*_MADE, media_types=("image/png",))


@router.get("/{lut_id}/file", response_class=Response, responses=_TABLE)
async def download_lut(
    lut_id: str,
    who: Reader,
    request: Request,
    services: ServicesDep,
    format: Annotated[Literal["json", "csv"], Query(description="CSV has all entries, but not the profile.")] = "json",
    version: Number | None = None,
) -> Response:
    """The table itself, in its newest version or in the one that `version` names."""
    row, one = await run_in_threadpool(_version, services, lut_id, version)
    name = f"lut-{row.device_id}-{row.fingerprint}-v{one.number}.{format}"
    if format == "json":
        sha256, media_type = one.blob_sha256, "application/json"
    else:
        sha256, media_type = await _made(services, one, "csv", f"v{one.number}"), "text/csv; charset=utf-8"
    return await run_in_threadpool(send_blob, request, services, sha256, media_type=media_type, name=name)


@router.get("/{lut_id}/plots/{name}.png", response_class=Response, responses=_PICTURE)
async def get_plot(
    lut_id: str, name: Plot, who: Reader, request: Request, services: ServicesDep, version: Number | None = None
) -> Response:
    """A picture: `staircases` (latency over output channels), `heatmaps` (over both), `accuracy` (predicted, measured)."""
    row, one = await run_in_threadpool(_version, services, lut_id, version)
    made_of = f"v{one.number}"
    pairs: list[dict[str, float]] = []
    if name == "accuracy":
        pairs = await run_in_threadpool(_pairs, services, lut_id)
        made_of += f" {len(pairs)} pairs, {row.residual}"
    sha256 = await _made(services, one, name, made_of, pairs=pairs)
    file = f"{lut_id}-{name}.png"
    return await run_in_threadpool(send_blob, request, services, sha256, media_type="image/png", name=file, inline=True)


def _version(services: Services, lut_id: str, number: int | None) -> tuple[LutRow, LutVersionRow]:
    with services.database.read() as session:
        row = require_lut(session, lut_id)
        version = Luts(session).version(lut_id, number or row.version)
    if version is None:
        raise NotFound("version", f"{lut_id} {number}")
    return row, version


def _pairs(services: Services, lut_id: str) -> list[dict[str, float]]:
    with services.database.read() as session:
        rows = Luts(session).pairs(lut_id)
    return [{"predicted_ms": row.predicted_ms, "measured_ms": row.measured_ms} for row in rows]


async def _made(services: Services, version: LutVersionRow, name: str, made_of: str, **more: Any) -> str:
    """SHA-256 of the file of this name, which a worker makes unless it did so before."""
    stored = await run_in_threadpool(_stored, services, version.lut_id, name, made_of)
    if stored is not None:
        return stored
    await require_worker(services)
    payload = {"blob_sha256": version.blob_sha256, "name": name, **more}
    async with produced(services, "lut_file", payload) as facts:
        sha256 = str(facts["files"]["file"]["sha256"])
        await run_in_threadpool(_keep, services, version.lut_id, name, made_of, sha256)
    return sha256


def _stored(services: Services, lut_id: str, name: str, made_of: str) -> str | None:
    with services.database.read() as session:
        row = Luts(session).file(lut_id, name, made_of)
    return row.sha256 if row is not None and services.blobs.exists(row.sha256) else None


def _keep(services: Services, lut_id: str, name: str, made_of: str, sha256: str) -> None:
    with services.database.write() as session:
        require_lut(session, lut_id, lock=True)
        replaced = Luts(session).save_file(lut_id, name, made_of=made_of, sha256=sha256)
    if replaced is not None:
        services.drop_blobs([replaced])
