"""Rows as wire bodies."""

from collections.abc import Collection

from app.store.models import (
    DatasetRow,
    DeviceRow,
    JobArtifactRow,
    JobEventRow,
    LutRow,
    LutVersionRow,
    ModelRow,
    PruneJobRow,
)
from secateur.lut_schemas import Device, Lut, LutBuild, LutVersion
from secateur.schemas import Artifact, Dataset, JobEvent, Model, PruneJob


def model(row: ModelRow) -> Model:
    return Model.model_validate(row, from_attributes=True)


def dataset(row: DatasetRow) -> Dataset:
    return Dataset.model_validate(row, from_attributes=True)


def device(row: DeviceRow, online: Collection[str] = ()) -> Device:
    """`online` holds the ids of devices of which an agent is there now."""
    columns = ("id", "name", "hardware", "runtime", "runtime_version", "last_seen_at", "created_at")
    return Device(
        runtimes=[profile["runtime"] for profile in row.profiles or ()],
        online=row.id in online if row.profiles else None,
        **{name: getattr(row, name) for name in columns},
    )


def lut(row: LutRow) -> Lut:
    return Lut.model_validate(row, from_attributes=True)


def lut_version(row: LutVersionRow, own: Collection[str]) -> LutVersion:
    """`own` holds the ids of jobs that may be told."""
    columns = {name: getattr(row, name) for name in LutVersion.model_fields if name != "sha256"}
    columns["job_id"] = row.job_id if row.job_id in own else None
    return LutVersion.model_validate({**columns, "sha256": row.blob_sha256})


def lut_build(row: PruneJobRow) -> LutBuild:
    return LutBuild.model_validate(row, from_attributes=True)


def job(row: PruneJobRow) -> PruneJob:
    return PruneJob.model_validate(row, from_attributes=True)


def event(row: JobEventRow) -> JobEvent:
    return JobEvent.model_validate(row, from_attributes=True)


def artifact(row: JobArtifactRow) -> Artifact:
    return Artifact.model_validate(row, from_attributes=True)
