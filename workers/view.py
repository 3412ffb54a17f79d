"""What a worker is told of a job when it begins it: the spec of every step, and the files that are there before the first."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy.orm import Session

from app.store.models import LutRow, PruneJobRow
from app.store.repositories import Datasets, Luts, Models
from lut.profile import DeviceProfile
from secateur.schemas import PruneJobCreate
from workers.files import KNOWN_TABLES

DEFAULTS = PruneJobCreate(model_id="-", dataset_id="-", classes=["-"], budget_ms=1).model_dump(mode="json")
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


def make_view(
    session: Session, row: PruneJobRow, own: DeviceProfile, device_id: str, limits: Mapping[str, float]
) -> JobView:
    """Return the view of a job for a worker of `device_id`, whose profile is `own` but for threads and batch.

    Raises LookupError, with a sentence, when the job's model or dataset, or the table of a device in `also`, is gone.
    """
    model = Models(session).get(row.model_id or "")
    dataset = Datasets(session).get(row.dataset_id or "")
    if model is None or dataset is None:
        raise LookupError("the job's model or dataset has been deleted")
    profile = replace(own, threads=row.spec["threads"], batch=row.spec["batch"])
    inputs = {"model": model.sha256, "dataset.zip": dataset.sha256}
    if table := Luts(session).find(device_id, profile.fingerprint):
        inputs[KNOWN_TABLES[0]] = table.blob_sha256
    also = []
    for name, wanted in zip(KNOWN_TABLES[1:], row.spec.get("also", ()), strict=False):
        device, table = _further_device(session, profile, device_id, wanted)
        also.append(device)
        if table is not None:
            inputs[name] = table.blob_sha256
    spec = {
        "job": {**DEFAULTS, **row.spec},
        "model": _columns(model),
        "dataset": _columns(dataset),
        "profile": asdict(profile),
        "also": also,
        "limits": dict(limits),
    }
    return JobView(id=row.id, workflow_id=row.workflow_id, attempt=row.attempt, spec=spec, inputs=inputs)


def _further_device(
    session: Session, own: DeviceProfile, device_id: str, wanted: Mapping[str, Any]
) -> tuple[dict[str, Any], LutRow | None]:
    """Return what the steps are told of a device in `also`, and its table."""
    if wanted["device"] == device_id:
        profile = replace(own, threads=wanted["threads"], batch=wanted["batch"])
        return {"profile": asdict(profile), "here": True}, Luts(session).find(device_id, profile.fingerprint)
    table = Luts(session).newest(wanted["device"], threads=wanted["threads"], batch=wanted["batch"])
    if table is None:
        raise LookupError(f"the latency table of the device {wanted['device']} has been deleted")
    return {"profile": table.profile, "here": False}, table


def _columns(row: Any) -> dict[str, Any]:
    return {column.name: getattr(row, column.name) for column in row.__table__.columns if column.name != "created_at"}
