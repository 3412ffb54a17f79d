"""What a worker is told of a job when it begins it: the spec of every step, and the files that are there before the first."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy.orm import Session

from app.store.models import LutRow, PruneJobRow
from app.store.repositories import Datasets, Devices, Luts, Models
from lut.analytic import DEVICES, analytic_profile
from lut.profile import DeviceProfile
from secateur.lut_schemas import LutBuildCreate
from secateur.schemas import PruneJobCreate
from workers.device import profile_for
from workers.files import KNOWN_TABLES, TABLES

DEFAULTS = PruneJobCreate(model_id="-", dataset_id="-", classes=["-"], budget_ms=1).model_dump(mode="json")
BUILD_DEFAULTS = {
    **LutBuildCreate(model_id="-").model_dump(mode="json"),
    "also": [],
    "budget_ms": None,
    "budget_ratio": None,
}
"""A job submitted to an older service lacks the options that have come since."""


@dataclass(frozen=True, kw_only=True)
class JobView:
    """A job as it was when this worker began it."""

    id: str
    workflow_id: str
    attempt: int
    spec: dict[str, Any]
    """What every step is told, less `results`."""
    inputs: dict[str, str]
    """SHA-256 of the files that are there before the first step, by name."""
    kind: str = "prune"
    """`prune` or `lut_build`: which pipeline runs it."""
    tables: tuple[dict[str, Any], ...] = ()
    """Versions of latency tables among the inputs: `name` of the file that goes on from each, `lut_id`, `version`."""
    deadline: float | None = None
    """When the job's time is up, by the worker's monotonic clock; None where it has no limit."""
    device: str = ""
    request_id: str = ""
    """Of the request that submitted the job."""
    traceparent: str = ""
    queued_s: float = 0.0
    """How long it waited to be begun, submission to start."""


def make_view(
    session: Session, row: PruneJobRow, own: DeviceProfile, device_id: str, limits: Mapping[str, float]
) -> JobView:
    """Return the view of a job for a worker of `device_id`, whose profile is `own` but for runtime, threads and batch.

    A job on a device with agents is measured there, for any worker. Raises LookupError, with a sentence, when the job's
    model, dataset or device, or the table of a device in `also`, is gone.
    """
    model = Models(session).get(row.model_id or "")
    dataset = Datasets(session).get(row.dataset_id or "")
    if model is None or (dataset is None and row.kind == "prune"):
        raise LookupError("the job's model or dataset has been deleted")
    tables: list[dict[str, Any]] = []
    agents = ""
    if row.device_id != device_id:
        agents = device_id = row.device_id
    profile, absent = _measured_on(session, own, agents, row.spec)
    missing = [absent] if absent else []
    inputs = {"model": model.sha256, **({"dataset.zip": dataset.sha256} if dataset else {})}
    if table := Luts(session).find(device_id, profile.fingerprint):
        inputs[KNOWN_TABLES[0]] = table.blob_sha256
        tables.append({"name": TABLES[0], "lut_id": table.id, "version": table.version})
    also = []
    for index, wanted in enumerate(row.spec.get("also", ()), start=1):
        device, table, absent = _further_device(session, own, (device_id, agents), wanted)
        missing += [absent] if absent else []
        also.append(device)
        if table is not None:
            number = table.published_version if not device["here"] and table.published_version else table.version
            version = Luts(session).version(table.id, number)
            assert version is not None
            inputs[KNOWN_TABLES[index]] = version.blob_sha256
            tables.append({"name": TABLES[index], "lut_id": table.id, "version": number})
    spec = {
        "job": {**(DEFAULTS if row.kind == "prune" else BUILD_DEFAULTS), **row.spec},
        "model": _columns(model),
        "dataset": _columns(dataset) if dataset else {"image_size": row.spec["image_size"]},
        "profile": asdict(profile),
        "agents": agents,
        "also": also,
        "absent": missing,
        "limits": dict(limits),
    }
    return JobView(
        id=row.id, workflow_id=row.workflow_id, attempt=row.attempt, kind=row.kind, spec=spec, inputs=inputs,
        tables=tuple(tables), device=row.device_id, request_id=row.request_id or "", traceparent=row.traceparent or "",
        queued_s=(row.started_at - row.created_at).total_seconds() if row.started_at else 0.0,
    )  # fmt: skip


def preflight_row(session: Session, spec: Mapping[str, Any], device_id: str) -> PruneJobRow:
    """Return the row of a job that was not submitted; a worker of `device_id` stands in for workers of another device."""
    device = Devices(session).get(spec.get("device", device_id))
    return PruneJobRow(
        id="preflight", kind="prune", workflow_id="", attempt=1, spec=dict(spec), model_id=spec["model_id"],
        dataset_id=spec["dataset_id"], device_id=device.id if device and device.profiles else device_id,
    )  # fmt: skip


def _measured_on(
    session: Session, own: DeviceProfile, agents: str, wanted: Mapping[str, Any]
) -> tuple[DeviceProfile, str]:
    """Return the profile of a target on the worker's device, or on the one whose `agents` measure, and why it cannot be
    used, if it cannot.
    """
    if not agents:
        return profile_for(own, wanted)
    device = Devices(session).get(agents)
    if device is None or not device.profiles:
        raise LookupError(f"the device {agents} has been deleted")
    found = {one["runtime"]: DeviceProfile(**one) for one in device.profiles}
    name = wanted.get("runtime") or device.runtime
    absent = "" if name in found else f"{name} cannot run on {agents}: its agent has {', '.join(found)}."
    profile = found.get(name) or replace(found[device.runtime], runtime=name, runtime_version="absent")
    return replace(profile, threads=wanted["threads"], batch=wanted["batch"]), absent


def _further_device(
    session: Session, own: DeviceProfile, job_device: tuple[str, str], wanted: Mapping[str, Any]
) -> tuple[dict[str, Any], LutRow | None, str]:
    """Return what the steps are told of a device in `also`, its table, and why it cannot be used, if it cannot.

    `job_device` is the job's own: its id, and again where it has agents.
    """
    device_id, agents = job_device
    if wanted["device"] == device_id:
        profile, absent = _measured_on(session, own, agents, wanted)
        return {"profile": asdict(profile), "here": True}, Luts(session).find(device_id, profile.fingerprint), absent
    if core := DEVICES.get(wanted["device"]):  # a model: its table is computed by the job
        return {"profile": asdict(analytic_profile(core, batch=wanted["batch"])), "here": False}, None, ""
    table = Luts(session).newest(
        wanted["device"], threads=wanted["threads"], batch=wanted["batch"], runtime=wanted.get("runtime")
    )
    if table is None:
        raise LookupError(f"the latency table of the device {wanted['device']} has been deleted")
    return {"profile": table.profile, "here": False}, table, ""


def _columns(row: Any) -> dict[str, Any]:
    return {column.name: getattr(row, column.name) for column in row.__table__.columns if column.name != "created_at"}
