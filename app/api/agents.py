"""/v1/agents and /v1/measurements: agents register the devices they are on, measure what jobs ask for, post results."""

import asyncio
import hashlib
import json
import threading
import time
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.api.answers import check_result, check_table
from app.api.files import file_responses, send_blob
from app.auth.access import Access, Agent, LivingAgent
from app.errors import ApiProblem, NotFound, responses
from app.services import Services, ServicesDep
from app.store.models import DeviceRow, MeasurementRow
from app.store.repositories import Devices, Measurements, Workers
from secateur.agent_schemas import (
    AgentHello,
    AgentId,
    AgentWelcome,
    LeaseRequest,
    Measurement,
    MeasurementProgress,
    MeasurementResult,
)

router = APIRouter(prefix="/v1", tags=["agents"])
_BODY = ("unsupported_media_type", "body_too_large")


@router.post("/agents", responses=responses("device_exists", *_BODY))
def register(who: Agent, hello: AgentHello, services: ServicesDep) -> AgentWelcome:
    """Register a device and what its agent measures in; an agent does so when it starts, and when it is told to."""
    profiles = [profile.model_dump() for profile in hello.profiles]
    with services.database.write() as session:
        row = Devices(session).get(hello.device, lock=True)
        if Workers(session).serves(hello.device):
            raise ApiProblem("device_exists", f"The device {hello.device!r} is a worker's: choose another name.")
        differs = row is not None and row.profiles and _fingerprint(row) != fingerprint(profiles)
        if differs and Devices(session).online([hello.device], services.settings.agent_lease_s):
            detail = f"Another agent of {hello.device!r}, on a different machine or with other runtimes, is online."
            raise ApiProblem("device_exists", detail)
        row = Devices(session).enrol(hello.device, profiles, who.project_id)
        _require_own(who, row)
        who.record(session, row.id)
        return AgentWelcome(device=row.id, fingerprint=_fingerprint(row))


@router.post(
    "/agents/{device_id}/lease",
    response_model=Measurement,
    responses={
        204: {"description": "There is nothing to measure."},
        **responses("not_found", "device_changed", "not_ready", *_BODY),
    },
)
async def lease(device_id: str, who: LivingAgent, wanted: LeaseRequest, request: Request, services: ServicesDep) -> Any:
    """Wait until a job wants something measured on the device, and lease it; 204 when nothing came meanwhile."""
    stopping: threading.Event = request.app.state.stopping
    until = time.monotonic() + wanted.wait_s
    seen_at = -float("inf")
    while not stopping.is_set():
        now = time.monotonic()
        if now - seen_at > services.settings.agent_lease_s / 4:
            await run_in_threadpool(_seen, services, who, device_id, wanted)
            seen_at = now
        if found := await run_in_threadpool(_lease, services, who, device_id, wanted):
            return found
        if now >= until or await request.is_disconnected():
            return Response(status_code=204)
        await asyncio.sleep(services.settings.events_poll_s)
    raise ApiProblem("not_ready", "The service is stopping.")


@router.put(
    "/measurements/{measurement_id}/progress",
    status_code=204,
    responses=responses("not_found", "lease_lost", "result_refused", *_BODY),
)
def progress(measurement_id: str, who: LivingAgent, said: MeasurementProgress, services: ServicesDep) -> None:
    """Renew the lease, or give it back. After `lease_lost` nobody wants the work any more: stop it."""
    with services.database.write() as session:
        row = _held(session, who, measurement_id, said.agent)
        if row.status != "leased":
            raise ApiProblem("lease_lost", f"The measurement {measurement_id} is {row.status}.")
        repository = Measurements(session)
        repository.renew(row, services.settings.agent_lease_s, progress=said.fraction, seconds_left=said.seconds_left)
        if said.table is not None:
            check_table(row, said.table)
            repository.keep(row, said.table.model_dump(mode="json"))
        if said.release:
            repository.release(row)
        Devices(session).seen(row.device_id)


@router.post(
    "/measurements/{measurement_id}/result",
    status_code=204,
    responses=responses("not_found", "lease_lost", "result_refused", *_BODY),
)
def result(measurement_id: str, who: Agent, said: MeasurementResult, services: ServicesDep) -> None:
    """Store a result, once: sent again by the agent that sent it first, it changes nothing."""
    with services.database.write() as session:
        row = _held(session, who, measurement_id, said.agent)
        if row.status != "leased":
            return
        check_result(row, said)
        values = said.model_dump(mode="json", exclude={"agent", "error"}, exclude_none=True)
        Measurements(session).finish(row, values, said.error)
        who.record(session)
        Devices(session).seen(row.device_id)


@router.get(
    "/measurements/{measurement_id}/files/{sha256}",
    response_class=Response,
    responses=file_responses("lease_lost", media_types=("application/octet-stream",)),
)
def file(
    measurement_id: str,
    sha256: str,
    who: Agent,
    request: Request,
    services: ServicesDep,
    agent: Annotated[AgentId, Header(alias="X-Secateur-Agent")],
) -> Response:
    """A network to be timed, as ONNX; to the agent that holds the lease."""
    with services.database.write() as session:
        row = _held(session, who, measurement_id, agent)
    if sha256 not in row.files:
        raise NotFound("file", sha256)
    return send_blob(request, services, sha256, media_type="application/octet-stream", name=f"{sha256}.onnx")


def fingerprint(profiles: list[dict[str, Any]]) -> str:
    """Sixteen hex digits that differ where the profiles do."""
    return hashlib.sha256(json.dumps(profiles, sort_keys=True).encode()).hexdigest()[:16]


def _fingerprint(row: DeviceRow) -> str:
    return fingerprint(row.profiles or [])


def _seen(services: Services, who: Access, device_id: str, wanted: LeaseRequest) -> None:
    """Note that the device's agent is there; raises 404 or 409 when it has to register (again) first."""
    with services.database.write() as session:
        row = Devices(session).get(device_id)
        if row is None:
            raise NotFound("device", device_id)
        who.check(session)
        _require_own(who, row)
        if not row.profiles or _fingerprint(row) != wanted.fingerprint:
            raise ApiProblem("device_changed", f"The device {device_id!r} is registered otherwise: register again.")
        Devices(session).seen(device_id)


def _lease(services: Services, who: Access, device_id: str, wanted: LeaseRequest) -> Measurement | None:
    with services.database.read() as session:  # most looks find nothing, and then nobody waits for a writer
        if not Measurements(session).is_waiting(device_id, wanted.agent):
            return None
    with services.database.write() as session:
        row = Measurements(session).lease(device_id, wanted.agent, services.settings.agent_lease_s)
        if row is None:
            return None
        who.record(session, row.id)
        body = {name: getattr(row, name) for name in ("id", "kind", "profile", "payload", "files")}
        begun = (row.result or {}).get("table")
        return Measurement.model_validate({**body, "begun": begun, "lease_s": services.settings.agent_lease_s})


def _require_own(who: Access, device: DeviceRow) -> None:
    """Raise ApiProblem (409) unless the device's agents are of this project: others would be given its jobs' networks."""
    if device.project_id not in (None, who.project_id) and who.sees is not None:
        raise ApiProblem("device_exists", f"The agents of {device.id!r} are another project's: choose another name.")


def _held(session: Session, who: Access, measurement_id: str, agent: str) -> MeasurementRow:
    """The measurement, locked; raises 404, also for another project's device, and 409 unless the agent holds it and its
    job wants it.
    """
    repository = Measurements(session)
    asked = repository.get(measurement_id)
    device = Devices(session).get(asked.device_id) if asked else None
    if asked is None or (who.sees is not None and (device is None or device.project_id not in (None, who.sees))):
        raise NotFound("measurement", measurement_id)
    row = repository.held(measurement_id, agent)
    if row is None:
        detail = f"The measurement {measurement_id} is not this agent's any more, or nobody wants it."
        raise ApiProblem("lease_lost", detail)
    return row
