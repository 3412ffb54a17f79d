"""/v1/prune-jobs/{id}/events: a job's history, as a live stream or a page at a time."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.sse import format_sse_event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse

from app.api import wire
from app.api.submission import require_job
from app.auth.access import Access, Reader
from app.errors import ApiProblem, responses
from app.feed import STILL_HERE, Feed, Frame, frame
from app.services import Services, ServicesDep
from app.store.models import JobEventRow
from app.store.repositories import Events
from secateur.schemas import JobEvent, JobStatus, Page
from secateur.wire import CLOSING, DIGITS

router = APIRouter(prefix="/v1/prune-jobs", tags=["prune jobs"])
builds = APIRouter(prefix="/v1/lut-builds", tags=["latency tables"])

EVENT_STREAM = "text/event-stream"
_PAGE_SIZE = 500
_RECONNECT_MS = 2000
_AGAIN_S = 2.0
"""How long a stream waits before it asks a database again that did not answer."""
_LARGEST_ID = 2**63 - 1

EventId = Annotated[int | None, Query(ge=0, le=_LARGEST_ID, description="Answer with a page of events after this id.")]
LastEventId = Annotated[str | None, Header(alias="Last-Event-ID", pattern=DIGITS)]

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
    last_event_id: str | None,
    limit: int,
) -> Response:
    """The history of a job of this kind, as a stream or a page; raises 404."""
    accept = request.headers.get("accept", "")
    start = int(last_event_id) if last_event_id is not None else after or 0
    batch = await run_in_threadpool(_page, services, who, job_id, kind, start, limit)
    if EVENT_STREAM not in accept and (after is not None or "application/json" in accept):
        cursor = str(batch[-1].id) if len(batch) == limit else None
        return JSONResponse(Page[JobEvent](items=batch, next_cursor=cursor).model_dump(mode="json"))
    feed: Feed = request.app.state.feed
    return StreamingResponse(
        _stream(services, feed, who, job_id, kind, start, request.app.state.stopping),
        media_type=EVENT_STREAM,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


def _page(services: Services, who: Access, job_id: str, kind: str, after: int, limit: int) -> list[JobEvent]:
    with services.database.read() as session:
        rows, _ = _read(session, who, job_id, kind, after, limit)
        return [wire.event(row) for row in rows]


async def _stream(
    services: Services, feed: Feed, who: Access, job_id: str, kind: str, after: int, stopping: threading.Event
) -> AsyncIterator[bytes]:
    """Events as they come, until the job has ended, or the service stops, of which a last event of its own tells.

    First the history, read here, then what the feed brings. Who is too slow for the feed reads here again.
    """
    yield format_sse_event(comment="secateur", retry=_RECONNECT_MS)
    while not stopping.is_set():
        try:
            frames, ended = await run_in_threadpool(_history, services, who, job_id, kind, after)
        except ApiProblem:
            return  # the key has ended, or the job is gone: whoever asks again hears which
        except SQLAlchemyError:
            yield STILL_HERE
            await asyncio.sleep(_AGAIN_S)
            continue
        if frames:
            yield b"".join(one.text for one in frames)
            after = frames[-1].id
        if len(frames) == _PAGE_SIZE:
            continue
        if ended:
            return
        with feed.watch(job_id, who.key.id if who.key else None, after) as watcher:
            while (text := await watcher.take(services.settings.events_heartbeat_s)) is not None:
                yield text
        if watcher.over:
            return
        after = watcher.position
    # The job goes on, this process does not: whoever understands it comes back at once and finds another one.
    yield format_sse_event(event=CLOSING, data_str="{}", retry=_RECONNECT_MS)


def _history(services: Services, who: Access, job_id: str, kind: str, after: int) -> tuple[list[Frame], bool]:
    """A page of the history, ready to send, and whether the job had ended before; raises as `_read`, and 401 for a key that has."""
    with services.database.read() as session:
        rows, ended = _read(session, who, job_id, kind, after, _PAGE_SIZE)
        who.check(session)
        return [frame(row) for row in rows], ended


def _read(
    session: Session, who: Access, job_id: str, kind: str, after: int, limit: int
) -> tuple[list[JobEventRow], bool]:
    """Events after an id, and whether the job had ended before they were read; raises 404."""
    # First the status: its event was written with it, so that a stream which ends here has told it.
    ended = JobStatus(require_job(session, who, job_id, kind).status).ended
    return Events(session).after(job_id, after, limit=limit), ended
