"""Rows as wire bodies."""

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


def device(row: DeviceRow) -> Device:
    return Device.model_validate(row, from_attributes=True)


def lut(row: LutRow) -> Lut:
    return Lut.model_validate(row, from_attributes=True)


def lut_version(row: LutVersionRow) -> LutVersion:
    columns = {name: getattr(row, name) for name in LutVersion.model_fields if name != "sha256"}
    return LutVersion.model_validate({**columns, "sha256": row.blob_sha256})


def lut_build(row: PruneJobRow) -> LutBuild:
    return LutBuild.model_validate(row, from_attributes=True)


def job(row: PruneJobRow) -> PruneJob:
    return PruneJob.model_validate(row, from_attributes=True)


def event(row: JobEventRow) -> JobEvent:
    return JobEvent.model_validate(row, from_attributes=True)


def artifact(row: JobArtifactRow) -> Artifact:
    return Artifact.model_validate(row, from_attributes=True)
