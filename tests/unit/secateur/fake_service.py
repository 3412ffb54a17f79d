"""A small server on a real loopback socket that speaks the wire: what the client meets without the service's weight."""

import asyncio
import hashlib
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from secateur.lut_schemas import Device, Lut
from secateur.schemas import (
    Artifact,
    Dataset,
    JobEvent,
    JobStatus,
    Model,
    Problem,
    PruneJob,
    PruneJobCreate,
)
from tests.unit.secateur.fake_bodies import NOW, body, dump, make_events, make_job, missing, problem


@dataclass(kw_only=True)
class FakeService:
    """What the server holds and how it misbehaves; tests set the latter."""

    url: str = ""
    models: list[Model] = field(default_factory=list)
    datasets: list[Dataset] = field(default_factory=list)
    jobs: dict[str, PruneJob] = field(default_factory=dict)
    events: list[JobEvent] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=lambda: {"model.onnx": b"onnx" * 50_000, "report.json": b"{}"})
    keys: dict[str, str] = field(default_factory=dict)
    """Job id by idempotency key."""
    uploads: list[dict[str, Any]] = field(default_factory=list)
    streams: list[int] = field(default_factory=list)
    """The `Last-Event-ID` of each event stream that was opened."""
    end: dict[str, Any] = field(default_factory=dict)
    """Fields a submitted job ends with."""
    drop_after: list[int] = field(default_factory=list)
    """How many events each stream sends before its connection is cut; empty: all of them."""
    close_after: int | None = None
    """How many events the first stream sends before the service says that it leaves."""
    hold_open_s: float = 0.0
    """How long a stream stays open, with heartbeats, after its last event."""
    num_held: int = 0
    """Streams whose reader stayed that long."""
    damage: set[str] = field(default_factory=set)
    """Files that arrive with a wrong byte."""
    refuse: Problem | None = None
    """Answer to every POST."""
    lose_answers: int = 0
    """Number of submits that are carried out but whose answer is lost on the way."""

    def add_job(self, spec: PruneJobCreate, **fields: Any) -> PruneJob:
        """Put a job on the server, and the events that lead to its state."""
        job = make_job(f"job{len(self.jobs) + 1}", spec, **(self.end | fields))
        self.jobs[job.id] = job
        self.events += make_events(job, first_id=100 + len(self.events))
        return job

    def artifacts(self) -> list[Artifact]:
        """The files as the wire describes them."""
        return [
            Artifact(
                name=name,
                sha256=hashlib.sha256(content).hexdigest(),
                size_bytes=len(content),
                media_type="application/octet-stream",
            )
            for name, content in self.files.items()
        ]

    # Handlers

    async def post_model(self, request: Request) -> Response:
        """`POST /v1/models`."""
        if self.refuse:
            return problem(self.refuse)
        fields = await self._form(request)
        model = Model(
            id=f"m{len(self.models) + 1}", name=fields["name"], arch=fields["arch"], sha256=fields["sha256"],
            size_bytes=fields["size_bytes"], num_parameters=855_000, num_outputs=10,
            input_shape=[3, 48, 48] if fields["arch"] == "onnx" else None,
            class_names=json.loads(fields.get("class_names", "null")), created_at=NOW,
        )  # fmt: skip
        self.models.append(model)
        return body(model, 201)

    async def post_dataset(self, request: Request) -> Response:
        """`POST /v1/datasets`."""
        if self.refuse:
            return problem(self.refuse)
        fields = await self._form(request)
        dataset = Dataset(
            id=f"d{len(self.datasets) + 1}", name=fields["name"], sha256=fields["sha256"],
            size_bytes=fields["size_bytes"], image_size=int(fields["image_size"]),
            mean=json.loads(fields["mean"]), std=json.loads(fields["std"]),
            classes=["3", "cat", "dog"], num_images={"train": 12}, num_skipped=1, skipped=["train/cat/7.png: cut off"],
            class_map=json.loads(fields.get("class_map", "null")), created_at=NOW,
        )  # fmt: skip
        self.datasets.append(dataset)
        return body(dataset, 201)

    async def _form(self, request: Request) -> dict[str, Any]:
        form = await request.form()
        fields: dict[str, Any] = {key: value for key, value in form.items() if isinstance(value, str)}
        upload = form["file"]
        assert not isinstance(upload, str)
        content = await upload.read()
        fields |= {
            "sha256": hashlib.sha256(content).hexdigest(),
            "size_bytes": len(content),
            "filename": upload.filename,
        }
        self.uploads.append(fields | {"content": content, "length": request.headers.get("content-length")})
        return fields

    async def submit(self, request: Request) -> Response:
        """`POST /v1/prune-jobs`."""
        spec = PruneJobCreate.model_validate_json(await request.body())
        if self.refuse:
            return problem(self.refuse)
        key = request.headers["idempotency-key"]
        if key not in self.keys:
            self.keys[key] = self.add_job(spec).id
        if self.lose_answers:
            self.lose_answers -= 1
            return StreamingResponse(cut_off(), status_code=202)
        return body(self.jobs[self.keys[key]], 202)

    async def validate(self, request: Request) -> Response:
        """`POST /v1/prune-jobs/validate`."""
        PruneJobCreate.model_validate_json(await request.body())
        blocker = {
            "severity": "warning",
            "code": "kept_dense",
            "detail": "grouped",
            "layer": "fc",
            "latency_share": 0.1,
        }
        return JSONResponse(
            {
                "ok": True,
                "blockers": [blocker],
                "num_coupling_groups": 30,
                "prunable_latency_share": 0.9,
                "dense_ms": 4.0,
                "min_achievable_ms": None,
            }
        )

    async def list_jobs(self, request: Request) -> Response:
        """`GET /v1/prune-jobs`, one job a page unless asked for more."""
        wanted = request.query_params.get("status")
        found = [job for job in reversed(self.jobs.values()) if wanted in (None, job.status)]
        start = int(request.query_params.get("cursor", 0))
        end = start + 1
        page = {"items": [dump(job) for job in found[start:end]], "next_cursor": str(end) if end < len(found) else None}
        return JSONResponse(page)

    async def get_job(self, request: Request) -> Response:
        """`GET /v1/prune-jobs/{id}`, with a field no client knows yet."""
        job = self.jobs.get(request.path_params["id"])
        return missing() if job is None else JSONResponse(dump(job) | {"from_the_future": 1})

    async def cancel(self, request: Request) -> Response:
        """`POST /v1/prune-jobs/{id}/cancel`."""
        job = self.jobs[request.path_params["id"]]
        self.jobs[job.id] = job.model_copy(update={"status": JobStatus.CANCELLED, "outcome": None})
        return body(self.jobs[job.id], 202)

    async def list_events(self, request: Request) -> Response:
        """`GET /v1/prune-jobs/{id}/events`, as a stream."""
        if request.path_params["id"] not in self.jobs:
            return missing()
        assert request.headers["accept"] == "text/event-stream"
        after = int(request.headers.get("last-event-id", 0))
        self.streams.append(after)
        limit = self.drop_after.pop(0) if self.drop_after else None
        return StreamingResponse(self._stream(request.path_params["id"], after, limit), media_type="text/event-stream")

    async def _stream(self, job_id: str, after: int, limit: int | None) -> AsyncIterator[bytes]:
        yield b": hello\n\n"
        rest = [event for event in self.events if event.job_id == job_id and event.id > after]
        leaves, self.close_after = self.close_after, None
        for event in rest[: limit if leaves is None else leaves]:
            text = json.dumps(dump(event), ensure_ascii=False)
            yield f"id: {event.id}\r\nevent: {event.kind}\r\ndata: {text}\r\n\r\n".encode()
        if leaves is not None:
            yield b"event: closing\nretry: 2000\ndata: {}\n\n"
            return
        if limit is not None and limit < len(rest):
            yield b'id: 9999\ndata: {"half'
            raise ConnectionResetError("cut on purpose")
        deadline = time.monotonic() + self.hold_open_s
        while time.monotonic() < deadline:
            await asyncio.sleep(0.05)
            yield b": still here\n\n"
        self.num_held += 1

    async def list_artifacts(self, request: Request) -> Response:
        """`GET /v1/prune-jobs/{id}/artifacts`."""
        if request.path_params["id"] not in self.jobs:
            return missing()
        return JSONResponse({"items": [dump(file) for file in self.artifacts()], "next_cursor": None})

    async def get_artifact(self, request: Request) -> Response:
        """`GET /v1/prune-jobs/{id}/artifacts/{name}`."""
        name = request.path_params["name"]
        if name not in self.files:
            return missing()
        content = self.files[name]
        return Response(content[:-1] + b"!" if name in self.damage else content)

    async def get_model(self, request: Request) -> Response:
        """`GET /v1/models/{id}`."""
        return next((body(model) for model in self.models if model.id == request.path_params["id"]), missing())

    async def get_dataset(self, request: Request) -> Response:
        """`GET /v1/datasets/{id}`."""
        return next((body(data) for data in self.datasets if data.id == request.path_params["id"]), missing())

    async def list_devices(self, request: Request) -> Response:
        """`GET /v1/devices`."""
        device = Device(
            id="dev1", name="local", hardware="cpu [x]", runtime="onnxruntime", runtime_version="1.24", created_at=NOW
        )
        return JSONResponse({"items": [dump(device)], "next_cursor": None})

    async def list_luts(self, request: Request) -> Response:
        """`GET /v1/luts`."""
        lut = Lut(
            id="l1", device_id="dev1", profile={"threads": 1, "batch": 1}, fingerprint="f",
            num_entries=1234, num_signatures=9, step=8, noise=0.02, seconds=31.0, created_at=NOW, updated_at=NOW,
        )  # fmt: skip
        return JSONResponse({"items": [dump(lut)], "next_cursor": None})

    def app(self) -> Starlette:
        """The routes."""
        job = "/v1/prune-jobs/{id}"
        return Starlette(
            routes=[
                Route("/v1/models", self.post_model, methods=["POST"]),
                Route("/v1/models/{id}", self.get_model),
                Route("/v1/datasets", self.post_dataset, methods=["POST"]),
                Route("/v1/datasets/{id}", self.get_dataset),
                Route("/v1/devices", self.list_devices),
                Route("/v1/luts", self.list_luts),
                Route("/v1/prune-jobs", self.submit, methods=["POST"]),
                Route("/v1/prune-jobs", self.list_jobs),
                Route("/v1/prune-jobs/validate", self.validate, methods=["POST"]),
                Route(job, self.get_job),
                Route(f"{job}/cancel", self.cancel, methods=["POST"]),
                Route(f"{job}/events", self.list_events),
                Route(f"{job}/artifacts", self.list_artifacts),
                Route(f"{job}/artifacts/{{name}}", self.get_artifact),
                Route("/html", lambda _: Response("<h1>hello</h1>", media_type="text/html")),
            ]
        )


async def cut_off() -> AsyncIterator[bytes]:
    """A body that never ends properly."""
    yield b"{"
    raise ConnectionResetError("cut on purpose")


@contextmanager
def running(fake: FakeService) -> Iterator[FakeService]:
    """Run the fake service for the time of the `with`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fake.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(fake.app(), log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield fake
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive(), "the fake service did not stop"
