"""Bodies a small server answers with."""

from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.responses import JSONResponse, Response

from secateur.schemas import JobEvent, JobStatus, Problem, PruneJob, PruneJobCreate

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
REPORT = {
    "verdict": "Budget met: 1.900 ms of 2.000 ms.",
    "classes": ["cat", "dog"],
    "dense": {
        "p50_ms": 4.0,
        "accuracy": 0.95,
        "per_class": [0.9, 1.0],
        "num_macs": 126_000_000,
        "num_parameters": 855_000,
        "size_bytes": 3_420_000,
    },
    "slim": {
        "p50_ms": 1.9,
        "accuracy": 0.94,
        "per_class": [0.9, 0.98],
        "num_macs": 41_000_000,
        "num_parameters": 301_000,
        "size_bytes": 1_204_000,
    },
    "baselines": [{"name": "uniform", "measured_ms": 1.95, "accuracy_cut": 0.4, "accuracy_reconstructed": None}],
    "warnings": [{"code": "few_images", "detail": "The split has 20 images."}],
}


def make_job(job_id: str, spec: PruneJobCreate, **fields: Any) -> PruneJob:
    """A job that has met its budget, unless `fields` say something else."""
    state = {
        "id": job_id, "name": spec.name, "spec": spec, "status": JobStatus.SUCCEEDED, "phase": "exporting",
        "attempt": 1, "progress": 1.0, "outcome": "budget_met", "failure": None,
        "summary": {"budget_ms": 2.0, "dense_ms": 4.0, "measured_ms": 1.9},
        "created_at": NOW, "started_at": NOW, "ended_at": NOW,
    }  # fmt: skip
    return PruneJob.model_validate(state | fields)


def make_events(job: PruneJob, *, first_id: int) -> list[JobEvent]:
    """The story of a job, ten events and ten seconds apart, up to its present state."""
    story: list[tuple[str, dict[str, Any]]] = [
        ("status", {"status": "queued", "attempt": 0}),
        ("status", {"status": "running", "attempt": 1}),
        ("phase", {"phase": "profiling"}),
        ("progress", {"progress": 0.25}),
        ("log", {"text": "brackets [bold] and \u2028 and \r\n survive"}),
        ("phase", {"phase": "finetuning"}),
        ("metric", {"values": {"epoch": 3, "val_accuracy": 0.9312, "measured_ms": 1.9}}),
        ("warning", {"code": "noisy", "text": "the device is noisy"}),
        ("progress", {"progress": 0.75}),
        ("status", {"status": str(job.status), "attempt": 1}),
    ]
    return [
        JobEvent(
            id=first_id + index, job_id=job.id, kind=kind, data=data, created_at=NOW + timedelta(seconds=10 * index)
        )
        for index, (kind, data) in enumerate(story)
    ]


def dump(value: Any) -> Any:
    """A wire body as JSON types."""
    return value.model_dump(mode="json")


def body(value: Any, status: int = 200) -> Response:
    """A wire body as an answer."""
    return JSONResponse(dump(value), status_code=status)


def problem(value: Problem) -> Response:
    """A problem as an answer."""
    return JSONResponse(dump(value), status_code=value.status, media_type="application/problem+json")


def missing() -> Response:
    """404."""
    return problem(
        Problem(type="about:blank", title="Not found", status=404, code="not_found", detail="There is no such job.")
    )
