"""Four pages: the jobs, one job as it runs, a latency table, and what a problem code means. No script or style from elsewhere."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

from app.api import wire
from app.api.luts import require_lut
from app.api.submission import require_job
from app.auth.access import PageReader
from app.errors import NotFound
from app.problems import PROBLEMS
from app.services import ServicesDep
from app.store.repositories import Artifacts, Datasets, Devices, Jobs, Luts, Models, Workers
from secateur.schemas import JobStatus, PruneJob

router = APIRouter()

PHASES = ("validating", "profiling", "scoring", "solving", "slimming", "measuring", "finetuning", "exporting")
PICTURES = (
    ("staircases", "Latency over output channels, at the widest input; dots were measured"),
    ("heatmaps", "Latency over input and output channels"),
    ("accuracy", "What the table said of jobs' networks, and what was measured"),
)
_HERE = Path(__file__).parent
_NUM_JOBS = 100
ACTIVE = tuple(status for status in JobStatus if not status.ended)
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


def static_files() -> StaticFiles:
    """The style sheet and the scripts."""
    return StaticFiles(directory=_HERE / "static")


@router.get("/")
def home(who: PageReader, services: ServicesDep) -> Response:
    """The newest jobs, and what there is to work with."""
    with services.database.read() as session:
        jobs = [wire.job(row) for row in Jobs(session).page(project_id=who.sees, limit=_NUM_JOBS).rows]
        devices = Devices(session).page(limit=10).rows
        online = Devices(session).online([row.id for row in devices], services.settings.agent_lease_s)
        return page(
            "home.html",
            signed_in=who.by_cookie,
            jobs=[_shown(job) for job in jobs],
            num_workers=len(Workers(session).live(services.settings.worker_timeout_s)),
            models=Models(session).page(project_id=who.sees, limit=10).rows,
            datasets=Datasets(session).page(project_id=who.sees, limit=10).rows,
            devices=[wire.device(row, online) for row in devices],
            luts=[wire.lut(row) for row in Luts(session).page(limit=20).rows],
            builds=[
                wire.lut_build(row)
                for row in Jobs(session).page(kind="lut_build", project_id=who.sees, status=ACTIVE, limit=10).rows
            ],
        )


@router.get("/jobs/{job_id}")
def job_page(job_id: str, who: PageReader, services: ServicesDep) -> Response:
    """One job; the page follows its events."""
    with services.database.read() as session:
        row = require_job(session, who, job_id)
        job = wire.job(row)
        model = Models(session).get(job.spec.model_id)
        dataset = Datasets(session).get(job.spec.dataset_id)
        artifacts = [wire.artifact(item) for item in Artifacts(session).list(job_id)]
    return page(
        "job.html",
        signed_in=who.by_cookie,
        job=_shown(job),
        spec=json.dumps(job.spec.model_dump(mode="json"), indent=2, ensure_ascii=False),
        model_name=model.name if model else "deleted model",
        arch=model.arch if model else "",
        dataset_name=dataset.name if dataset else "deleted dataset",
        artifacts=artifacts,
        phases=PHASES,
    )


@router.get("/luts/{lut_id}")
def lut_page(lut_id: str, who: PageReader, services: ServicesDep) -> Response:
    """One latency table: its figures, its pictures, its versions, and what jobs made of its word."""
    with services.database.read() as session:
        row = require_lut(session, lut_id)
        versions, pairs = Luts(session).versions(lut_id, limit=50).rows, Luts(session).pairs(lut_id)[-50:]
        jobs = [version.job_id for version in versions if version.job_id] + [pair.job_id for pair in pairs]
        own = Jobs(session).of_project(jobs, who.sees)
        return page(
            "lut.html",
            signed_in=who.by_cookie,
            lut=wire.lut(row),
            versions=[{"one": wire.lut_version(version, own), "age": _age(version.created_at)} for version in versions],
            pairs=pairs,
            own=own,
            pictures=PICTURES[: 3 if row.num_pairs else 2],
        )


@router.get("/problems/{code}")
def problem_page(code: str, request: Request) -> Response:
    """What a problem's `type` points to."""
    kind = PROBLEMS.get(code)
    if kind is None:
        raise NotFound("problem", code)
    return page("problem.html", code=code, kind=kind)


def _shown(job: PruneJob) -> dict[str, Any]:
    """What the pages show of a job, as text."""
    spec, summary = job.spec, job.summary or {}
    budget = f"{spec.budget_ms:g} ms" if spec.budget_ms is not None else f"{spec.budget_ratio:.0%} of dense"
    return {
        "id": job.id,
        "name": job.name or job.id,
        "classes": ", ".join(str(name) for name in spec.classes[:6]) + (" …" if len(spec.classes) > 6 else ""),
        "num_classes": len(spec.classes),
        "device": spec.device,
        "threads": spec.threads,
        "batch": spec.batch,
        "budget": budget,
        "status": job.status.value,
        "ended": job.status.ended,
        "phase": job.phase or "",
        "percent": round(100 * job.progress),
        "outcome": job.outcome or "",
        "attempt": job.attempt,
        "summary": summary,
        "summary_json": json.dumps(summary),
        "failure": job.failure,
        "speed": _speed(summary),
        "created_at": job.created_at.isoformat(),
        "age": _age(job.created_at),
    }


def _speed(summary: Mapping[str, Any]) -> str:
    dense, measured = summary.get("dense_ms"), summary.get("measured_ms")
    if not isinstance(dense, int | float) or not isinstance(measured, int | float) or measured <= 0:
        return ""
    return f"{dense:.3g} → {measured:.3g} ms ({dense / measured:.1f}×)"


def _size(num_bytes: int) -> str:
    power = min((max(num_bytes, 1).bit_length() - 1) // 10, 3)
    return f"{num_bytes / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB')[power]}"


def _age(moment: datetime) -> str:
    seconds = max(0.0, (datetime.now(UTC) - moment).total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return "just now"


def page(template: str, *, status: int = 200, signed_in: bool = False, **values: Any) -> HTMLResponse:
    """The page that `template` makes of `values`."""
    # Without a referrer policy of its own a form of ours would say that it comes from nowhere (`Origin: null`).
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store", "Referrer-Policy": "same-origin"}
    text = _TEMPLATES.get_template(template).render(signed_in=signed_in, **values)
    return HTMLResponse(text, status, headers=headers)


_TEMPLATES = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters["size"] = _size
