"""/v1/prune-jobs/{id}/events: a job's history, as a live stream or a page at a time."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.sse import format_sse_event
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse

from app.api import wire
from app.api.submission import require_job
from app.auth.access import Access, Reader
from app.errors import ApiProblem, responses
from app.services import Services, ServicesDep
from app.store.repositories import Events
from secateur.schemas import JobEvent, JobStatus, Page
from secateur.wire import CLOSING

router = APIRouter(prefix="/v1/prune-jobs", tags=["prune jobs"])
builds = APIRouter(prefix="/v1/lut-builds", tags=["latency tables"])

EVENT_STREAM = "text/event-stream"
_PAGE_SIZE = 500
_RECONNECT_MS = 2000
_LARGEST_ID = 2**63 - 1

EventId = Annotated[int | None, Query(ge=0, le=_LARGEST_ID, description="Answer with a page of events after this id.")]
LastEventId = Annotated[int | None, Header(alias="Last-Event-ID", ge=0, le=_LARGEST_ID)]

_DOCUMENTED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A stream of JobEvents that ends with the job, or a page of them when asked for JSON.",
        "content": {
            EVENT_STREAM: {"schema": {"type": "string"}},
            "application/json": {"schema": {"$ref": "#/components/schemas/Page_JobEvent_"}},
        },
    }
}


Limit = Annotated[int, Query(ge=1, le=_PAGE_SIZE, description="Most events on a page.")]


@router.get("/{job_id}/events", response_class=Response, responses={**responses("not_found"), **_DOCUMENTED})
async def events(
    job_id: str,
    who: Reader,
    request: Request,
    services: ServicesDep,
    after: EventId = None,
    last_event_id: LastEventId = None,
    limit: Limit = _PAGE_SIZE,
) -> Response:
    """Server-sent events from the beginning or after `Last-Event-ID`; a page of them with `?after=` or Accept: JSON."""
    return await follow(request, services, who, job_id, "prune", after=after, last_event_id=last_event_id, limit=limit)


@builds.get("/{build_id}/events", response_class=Response, responses={**responses("not_found"), **_DOCUMENTED})
async def build_events(
    build_id: str,
    who: Reader,
    request: Request,
    services: ServicesDep,
    after: EventId = None,
    last_event_id: LastEventId = None,
    limit: Limit = _PAGE_SIZE,
) -> Response:
    """As for a prune job; a `progress` event tells `seconds_left`, once that can be told."""
    return await follow(
        request, services, who, build_id, "lut_build", after=after, last_event_id=last_event_id, limit=limit
    )


async def follow(
    request: Request,
    services: Services,
    who: Access,
    job_id: str,
    kind: str,
    *,
    after: int | None,
    last_event_id: int | None,
    limit: int,
) -> Response:
    """The history of a job of this kind, as a stream or a page; raises 404."""
    accept = request.headers.get("accept", "")
    start = last_event_id if last_event_id is not None else after or 0
    batch, _ = await run_in_threadpool(_read, services, who, job_id, kind, start, limit)
    if EVENT_STREAM not in accept and (after is not None or "application/json" in accept):
        cursor = str(batch[-1].id) if len(batch) == limit else None
        return JSONResponse(Page[JobEvent](items=batch, next_cursor=cursor).model_dump(mode="json"))
    stopping: threading.Event = request.app.state.stopping
    return StreamingResponse(
        _stream(services, who, job_id, kind, start, stopping),
        media_type=EVENT_STREAM,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _stream(
    services: Services, who: Access, job_id: str, kind: str, after: int, stopping: threading.Event
) -> AsyncIterator[bytes]:
    """Events as they come, until the job has ended, or the service stops, of which a last event of its own tells.

    No connection is held between looks.
    """
    heartbeat_s = services.settings.events_heartbeat_s
    spoke_at = time.monotonic()
    yield format_sse_event(comment="secateur", retry=_RECONNECT_MS)
    while not stopping.is_set():
        silent = time.monotonic() - spoke_at >= heartbeat_s
        try:
            batch, ended = await run_in_threadpool(_read, services, who, job_id, kind, after, _PAGE_SIZE, check=silent)
        except ApiProblem:
            return  # the key has ended, or the job is gone: whoever asks again hears which
        for item in batch:
            after = item.id
            yield format_sse_event(data_str=item.model_dump_json(), id=str(item.id))
        if len(batch) == _PAGE_SIZE:
            continue
        if ended:
            return
        if batch or silent:
            spoke_at = time.monotonic()
        if silent and not batch:
            yield format_sse_event(comment="still here")
        await asyncio.sleep(services.settings.events_poll_s)
    # The job goes on, this process does not: whoever understands it comes back at once and finds another one.
    yield format_sse_event(event=CLOSING, data_str="{}", retry=_RECONNECT_MS)


def _read(
    services: Services, who: Access, job_id: str, kind: str, after: int, limit: int, *, check: bool = False
) -> tuple[list[JobEvent], bool]:
    """Events after an id, and whether the job had ended before they were read; raises 404.

    Raises 401 when there is something to tell, or with `check`, and the key has ended.
    """
    with services.database.read() as session:
        # First the status: its event was written with it, so that a stream which ends here has told it.
        ended = JobStatus(require_job(session, who, job_id, kind).status).ended
        rows = Events(session).after(job_id, after, limit=limit)
        if rows or check:  # many streams are silent most of the time
            who.check(session)
        return [wire.event(row) for row in rows], ended
