"""Every problem the API can answer with. The codes are part of the wire: never rename one."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What all problems of one code share."""

    status: int
    title: str
    meaning: str
    """What happened and what to do, for the documentation."""


PROBLEMS: Mapping[str, Kind] = {
    # Who asks
    "key_required": Kind(
        status=401,
        title="API key required",
        meaning="Send a key as `Authorization: Bearer sct_...`; `secateur --key` or SECATEUR_API_KEY does so.",
    ),
    "key_refused": Kind(
        status=401, title="API key refused", meaning="The key is none of this service, has expired or was revoked."
    ),
    "scope_missing": Kind(
        status=403,
        title="Scope missing",
        meaning="The key may not do this; the detail names the scope it would need. GET /v1/whoami tells what it has.",
    ),
    "rate_limited": Kind(
        status=429,
        title="Too many requests",
        meaning="The key, or the address, has made as many requests as it may; Retry-After says when to come again.",
    ),
    "job_quota": Kind(
        status=429,
        title="Too many jobs",
        meaning="The project has as many jobs that have not ended as it may: wait for one, or cancel one.",
    ),
    "storage_quota": Kind(
        status=403,
        title="Storage is full",
        meaning="The project stores as many bytes as it may: delete models or datasets.",
    ),
    "project_exists": Kind(status=409, title="Project exists", meaning="Another project has this name."),
    "unknown_project": Kind(status=422, title="Unknown project", meaning="There is no project of this id."),
    # The request itself
    "malformed_request": Kind(
        status=400,
        title="The request cannot be read",
        meaning="The body is not JSON, the multipart body is cut off, or the address holds a NUL.",
    ),
    "host_refused": Kind(
        status=403,
        title="Unknown host name",
        meaning="The Host header names no host of this service. Add it to SECATEUR_ALLOWED_HOSTS if it should.",
    ),
    "origin_refused": Kind(
        status=403,
        title="Unknown origin",
        meaning="A web page of another site sent the request. Add its origin to SECATEUR_ALLOWED_ORIGINS to let it.",
    ),
    "not_found": Kind(status=404, title="Not found", meaning="There is no such route, resource or file."),
    "method_not_allowed": Kind(
        status=405, title="Method not allowed", meaning="The resource exists; the Allow header names its methods."
    ),
    "body_too_large": Kind(
        status=413, title="Too large", meaning="The body is larger than the service's limit, which the detail names."
    ),
    "unsupported_media_type": Kind(
        status=415,
        title="Unsupported media type",
        meaning="Send application/json, or multipart/form-data for an upload.",
    ),
    "range_not_satisfiable": Kind(
        status=416, title="Range not satisfiable", meaning="The requested range lies outside the file."
    ),
    "invalid_request": Kind(
        status=422, title="Invalid request", meaning="Fields are missing or wrong; `errors` points at each."
    ),
    "bad_cursor": Kind(
        status=422, title="Invalid cursor", meaning="Pass `next_cursor` of the page before, unchanged, or none."
    ),
    "idempotency_key_reused": Kind(
        status=422,
        title="Idempotency key used before",
        meaning="The Idempotency-Key came with another body within the last 24 hours. Use a new key for a new request.",
    ),
    # Uploads
    "pickle_refused": Kind(
        status=415,
        title="Pickles are refused",
        meaning="The file is a pickle (or a PyTorch archive that holds one), which can run code when it is read. "
        "Convert it to safetensors or ONNX.",
    ),
    "unsupported_format": Kind(
        status=415,
        title="Unsupported file format",
        meaning="Models come as safetensors or ONNX, datasets as a zip of an ImageFolder, latency tables as JSON or CSV.",
    ),
    "unknown_arch": Kind(
        status=422,
        title="Unknown architecture",
        meaning="Use `torchvision/<name>`, `timm/<name>`, `cifar/resnet20|32|44|56|110` (also `-a`, `-b`) or `onnx`.",
    ),
    "unknown_upload": Kind(
        status=422, title="Unknown upload", meaning="`upload_id` names no upload for this purpose; it may have expired."
    ),
    "upload_incomplete": Kind(
        status=409,
        title="Upload incomplete",
        meaning="Bytes of the upload are still to come; GET says from which offset.",
    ),
    "upload_busy": Kind(
        status=409,
        title="Upload busy",
        meaning="Another request is writing or reading the upload. Try again in a moment.",
    ),
    "offset_mismatch": Kind(
        status=409, title="Wrong offset", meaning="Go on from the offset that the answer's Upload-Offset header names."
    ),
    "checksum_mismatch": Kind(
        status=422,
        title="Wrong checksum",
        meaning="The bytes that came are not those of the checksum; send them again.",
    ),
    "upload_refused": Kind(
        status=422,
        title="The upload is not usable",
        meaning="A worker looked at the file and says what is wrong with it.",
    ),
    # Jobs
    "unknown_model": Kind(status=422, title="Unknown model", meaning="`model_id` names no uploaded model."),
    "unknown_dataset": Kind(status=422, title="Unknown dataset", meaning="`dataset_id` names no uploaded dataset."),
    "unknown_job": Kind(
        status=422, title="Unknown job", meaning="`after` names a job or table build that does not exist."
    ),
    "unknown_device": Kind(
        status=422,
        title="Unknown device",
        meaning="There is no device of this id; GET /v1/devices lists them.",
    ),
    "no_latency_table": Kind(
        status=422,
        title="No latency table",
        meaning="A device in `also` has no latency table for these threads and this batch; GET /v1/luts lists them.",
    ),
    "unknown_class": Kind(
        status=422,
        title="Unknown class",
        meaning="The dataset has no such class: give folder names as strings or positions in `classes` as numbers.",
    ),
    "duplicate_class": Kind(
        status=422, title="Class given twice", meaning="Name each class once, by name or position."
    ),
    "class_not_mapped": Kind(
        status=422,
        title="Class without an output",
        meaning="The dataset's `class_map` does not name an output of the model for the class.",
    ),
    "shape_mismatch": Kind(
        status=422,
        title="Images do not fit the model",
        meaning="The ONNX model fixes another image size.",
    ),
    "model_in_use": Kind(status=409, title="Model in use", meaning="A job that has not ended uses the model."),
    "dataset_in_use": Kind(status=409, title="Dataset in use", meaning="A job that has not ended uses the dataset."),
    # Devices and latency tables
    "image_size_needed": Kind(
        status=422,
        title="Image size needed",
        meaning="Give `image_size`, or `dataset_id` to take the dataset's: only an ONNX model fixes the size itself.",
    ),
    "device_exists": Kind(
        status=409,
        title="Device exists",
        meaning="Another device has this id; for an agent, a worker's, another project's, or one on a different machine that is online.",
    ),
    "device_changed": Kind(
        status=409,
        title="Device registered otherwise",
        meaning="The device is registered with other profiles than the agent's: POST /v1/agents again.",
    ),
    "lease_lost": Kind(
        status=409,
        title="Lease lost",
        meaning="The measurement went to another agent after its lease had run out, or its job does not want it any more.",
    ),
    "result_refused": Kind(
        status=422,
        title="Result refused",
        meaning="What was measured is not what was asked for; the detail says how it differs.",
    ),
    "device_in_use": Kind(
        status=409,
        title="Device in use",
        meaning="The device has a latency table, a live worker or agent, or a job that has not ended.",
    ),
    "lut_in_use": Kind(
        status=409, title="Latency table in use", meaning="A job that has not ended may use the latency table."
    ),
    "lut_published": Kind(
        status=409,
        title="Latency table published",
        meaning="A published table takes no import and is not deleted: unpublish it first.",
    ),
    "precondition_failed": Kind(
        status=412, title="Changed meanwhile", meaning="If-Match names another state of the table: get it again."
    ),
    "job_ended": Kind(status=409, title="The job has ended", meaning="An ended job cannot be cancelled."),
    "job_not_retryable": Kind(
        status=409, title="The job cannot be retried", meaning="Only failed and cancelled jobs can be retried."
    ),
    "input_deleted": Kind(
        status=409, title="An input was deleted", meaning="The job's model or dataset was deleted: submit a new job."
    ),
    # The service
    "internal_error": Kind(
        status=500,
        title="Internal error",
        meaning="A fault of the service; its log has the details under the request id.",
    ),
    "check_failed": Kind(
        status=500,
        title="The check broke",
        meaning="The worker that looked at the file or job broke. Its log says why.",
    ),
    "no_worker": Kind(
        status=503,
        title="No worker",
        meaning="No worker is running. Start one with `secateur worker` (or `secateur serve`).",
    ),
    "database_unavailable": Kind(
        status=503, title="Database unavailable", meaning="The database does not answer. Try again in a moment."
    ),
    "storage_unavailable": Kind(
        status=503, title="Storage unavailable", meaning="The bucket that keeps the files does not answer. Try again."
    ),
    "storage_full": Kind(
        status=507, title="Storage full", meaning="The service has no room for this; nothing of it was kept."
    ),
    "not_ready": Kind(
        status=503,
        title="Not ready",
        meaning="The database, its migrations or the store fail (`checks` tells which), or the service is stopping.",
    ),
    "check_timeout": Kind(
        status=504, title="The check took too long", meaning="No worker finished the check in time; all may be busy."
    ),
}
