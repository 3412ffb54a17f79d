"""The tables. Wire words, wire units; JSON columns hold what the wire shows as objects."""

from app.store.models.access import DEFAULT_PROJECT, ApiKeyRow, AuditRow, ProjectRow
from app.store.models.devices import DeviceRow, MeasurementRow, WorkerRow
from app.store.models.files import BlobHoldRow, LeaseRow, UploadRow
from app.store.models.inputs import DatasetRow, ModelRow
from app.store.models.jobs import JobArtifactRow, JobEventRow, JobWaitRow, PruneJobRow
from app.store.models.luts import LutFileRow, LutPairRow, LutRow, LutVersionRow
from app.store.models.requests import IdempotencyKeyRow

__all__ = [
    "DEFAULT_PROJECT",
    "ApiKeyRow",
    "AuditRow",
    "BlobHoldRow",
    "DatasetRow",
    "DeviceRow",
    "IdempotencyKeyRow",
    "JobArtifactRow",
    "JobEventRow",
    "JobWaitRow",
    "LeaseRow",
    "LutFileRow",
    "LutPairRow",
    "LutRow",
    "LutVersionRow",
    "MeasurementRow",
    "ModelRow",
    "ProjectRow",
    "PruneJobRow",
    "UploadRow",
    "WorkerRow",
]
