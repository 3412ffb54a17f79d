"""/v1/devices: what the workers can measure on."""

from fastapi import APIRouter

from app.api import wire
from app.api.paging import Before, Limit, to_page
from app.errors import NotFound, responses
from app.services import ServicesDep
from app.store.repositories import Devices
from secateur.schemas import Device, Page

router = APIRouter(prefix="/v1/devices", tags=["devices"])


@router.get("", responses=responses("bad_cursor"))
def list_devices(services: ServicesDep, before: Before, limit: Limit = 50) -> Page[Device]:
    """Devices that workers have registered."""
    with services.database.read() as session:
        return to_page(Devices(session).page(before=before, limit=limit), Device, wire.device)


@router.get("/{device_id}", responses=responses("not_found"))
def get_device(device_id: str, services: ServicesDep) -> Device:
    """One device."""
    with services.database.read() as session:
        row = Devices(session).get(device_id)
        if row is None:
            raise NotFound("device", device_id)
        return wire.device(row)
