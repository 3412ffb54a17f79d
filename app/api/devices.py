"""/v1/devices: what the workers can measure on, and what has tables from elsewhere."""

from fastapi import APIRouter, Response
from sqlalchemy.exc import IntegrityError

from app.api import wire
from app.api.paging import Before, Limit, to_page
from app.api.submission import named
from app.auth.access import DeviceKeeper, Reader
from app.errors import ApiProblem, NotFound, responses
from app.services import ServicesDep
from app.store.repositories import Devices, Jobs, Luts, Workers
from secateur.lut_schemas import Device, DeviceCreate
from secateur.schemas import Page

router = APIRouter(prefix="/v1/devices", tags=["devices"])


@router.get("", responses=responses("bad_cursor"))
def list_devices(who: Reader, services: ServicesDep, before: Before, limit: Limit = 50) -> Page[Device]:
    """Devices that workers or agents have registered or people have made."""
    with services.database.read() as session:
        page = Devices(session).page(before=before, limit=limit)
        online = Devices(session).online([row.id for row in page.rows], services.settings.agent_lease_s)
        return to_page(page, Device, lambda row: wire.device(row, online))


@router.post("", status_code=201, responses=responses("unsupported_media_type", "body_too_large", "device_exists"))
def create_device(who: DeviceKeeper, wanted: DeviceCreate, response: Response, services: ServicesDep) -> Device:
    """Make a device for tables that come from elsewhere; no worker serves it, and a job may name it in `also`."""
    taken = ApiProblem("device_exists", f"There is a device {wanted.id!r} already.")
    try:
        with services.database.write() as session:
            if Devices(session).get(wanted.id) is not None:
                raise taken
            values = wanted.model_dump(exclude={"id"}) | {"name": wanted.name or wanted.id}
            row = Devices(session).add(wanted.id, **values)
            who.record(session, row.id)
    except IntegrityError:
        raise taken from None
    response.headers["Location"] = f"/v1/devices/{row.id}"
    return wire.device(row)


@router.get("/{device_id}", responses=responses("not_found"))
def get_device(device_id: str, who: Reader, services: ServicesDep) -> Device:
    """One device."""
    with services.database.read() as session:
        row = Devices(session).get(device_id)
        if row is None:
            raise NotFound("device", device_id)
        return wire.device(row, Devices(session).online([device_id], services.settings.agent_lease_s))


@router.delete("/{device_id}", status_code=204, responses=responses("not_found", "device_in_use"))
def delete_device(device_id: str, who: DeviceKeeper, services: ServicesDep) -> None:
    """Delete the device; refused while it has a table, a worker or agent that lives, or a job that has not ended."""
    with services.database.write() as session:
        row = Devices(session).get(device_id, lock=True)
        if row is None:
            raise NotFound("device", device_id)
        tables = Luts(session).page(device_id=device_id, limit=1).rows
        workers = Workers(session).live(services.settings.worker_timeout_s, device_id=device_id)
        if tables:
            raise ApiProblem("device_in_use", f"The latency table {tables[0].id} belongs to the device.")
        if workers:
            raise ApiProblem("device_in_use", f"The worker {workers[0].id} serves the device.")
        if Devices(session).online([device_id], services.settings.agent_lease_s):
            raise ApiProblem("device_in_use", "An agent of the device is online.")
        if jobs := Jobs(session).active_on_device(device_id):
            raise ApiProblem("device_in_use", f"{named(session, who, jobs)} uses the device and has not ended.")
        Devices(session).delete(row)
        who.record(session)
