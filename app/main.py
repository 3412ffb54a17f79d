"""The app: routes, middleware, start and stop."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from app import addresses, handlers
from app.api import (
    agents,
    api_keys,
    audit,
    datasets,
    devices,
    events,
    health,
    lut_builds,
    lut_files,
    luts,
    models,
    projects,
    prune_jobs,
    results,
    uploads,
    whoami,
)
from app.api import metrics as metrics_route
from app.api.submission import add_together
from app.auth.middleware import TrailMiddleware
from app.feed import Feed
from app.links import add_links
from app.metrics import Metrics
from app.middleware import GuardMiddleware, LimitMiddleware, RequestMiddleware
from app.request_metrics import MetricsMiddleware
from app.retention import tend
from app.services import Services, open_services
from app.settings import Settings
from app.together import Together
from app.tracing import Tracing
from app.web import login, pages
from secateur import __version__
from secateur.schemas import JobEvent, Page, Problem
from secateur.upload_schemas import CHECKSUM, OFFSET

log = structlog.get_logger(__name__)

ROUTERS = (
    prune_jobs.router,  # asked most, and so looked at first
    models.router,
    datasets.router,
    uploads.router,
    devices.router,
    luts.router,
    lut_files.router,
    lut_builds.router,
    events.router,
    events.builds,
    results.router,
    agents.router,
    projects.router,
    api_keys.router,
    audit.router,
    whoami.router,
    health.router,
)
UNTRACED_PATHS = ("/healthz", "/readyz", "/metrics")
UPLOAD_PATHS = ("/v1/models", "/v1/datasets", "/v1/luts")


def create_app(settings: Settings) -> FastAPI:
    """The ASGI app; its database must have been migrated."""

    tracing = Tracing(settings, "secateur-api")
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services = open_services(settings)
        app.state.services = services
        metrics.watch(services)
        app.state.feed = Feed(services.database, settings.events_poll_s, app.state.stopping)
        app.state.submissions = Together(partial(add_together, services))
        tasks = [
            asyncio.create_task(_tend(services, app.state.stopping.is_set)),
            asyncio.create_task(app.state.feed.run()),
        ]
        yield
        app.state.stopping.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await run_in_threadpool(services.close)
        await run_in_threadpool(tracing.close)
        await run_in_threadpool(metrics.close)

    app = FastAPI(
        title="Secateur",
        summary="Prune a vision network to a measured latency budget, for the classes its user cares about.",
        version=__version__,
        openapi_url="/v1/openapi.json",
        docs_url=None,  # the usual pages load their scripts from elsewhere; this service works offline
        redoc_url=None,
        lifespan=lifespan,
        middleware=[Middleware(MetricsMiddleware, metrics=metrics), *_middleware(settings)],
        telemetry={
            "tracing": tracing.provider is not None,
            "tracer_provider": tracing.provider,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "exclude": lambda scope: scope.get("path") in UNTRACED_PATHS,
        },
    )
    app.state.metrics = metrics
    app.state.readiness = health.Readiness()
    app.state.stopping = threading.Event()
    handlers.install(app)
    for router in ROUTERS:
        app.include_router(router)
    app.include_router(login.router, include_in_schema=False)
    if settings.metrics == "api":
        app.include_router(metrics_route.router)
    app.include_router(pages.router, include_in_schema=False)
    app.mount("/static", pages.static_files(), name="static")
    _document(app)
    return app


async def _tend(services: Services, is_stopping: Callable[[], bool]) -> None:
    """Remove what is no longer needed, now and every `gc_every_s` seconds."""
    while True:
        try:
            await run_in_threadpool(tend, services, is_stopping)
        except Exception:  # whatever it is, the service goes on and the next turn may go well
            log.exception("retention failed", action="retention")
        await asyncio.sleep(services.settings.gc_every_s)


def _middleware(settings: Settings) -> list[Middleware]:
    stack = [Middleware(RequestMiddleware), Middleware(TrailMiddleware), Middleware(GuardMiddleware, settings=settings)]
    if settings.allowed_origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=list(settings.allowed_origins),
            allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=[
                "Authorization",
                "Content-Type",
                "Idempotency-Key",
                "If-Match",
                "Last-Event-ID",
                "X-Request-ID",
                OFFSET,
                CHECKSUM,
            ],
            expose_headers=[
                "Location",
                "ETag",
                "X-Request-ID",
                "Idempotency-Replayed",
                "Retry-After",
                "RateLimit",
                OFFSET,
            ],
        )
        stack.append(cors)
    return [*stack, Middleware(LimitMiddleware, settings=settings, upload_paths=UPLOAD_PATHS)]


def _document(app: FastAPI) -> None:
    """Put the bodies that routes answer with by hand into the OpenAPI schema, links, and what no address holds; take FastAPI's own 422 out."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = generate()
            schemas = schema["components"]["schemas"]
            for kind in (Problem, Page[JobEvent]):
                described = kind.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas.update(described.pop("$defs", {}))
                schemas[described["title"].replace("[", "_").replace("]", "_")] = described
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            add_links(schema)
            addresses.describe(schema)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
