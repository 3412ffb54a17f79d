"""Events of jobs as they are written: one reader for all open streams of an API process.

Every `events_poll_s` it asks once for what is new to any of its watchers, however many they are. Ids of different jobs may
become visible out of their order, those of one job never do (`Events.append`), so a watcher's place is an id of its own job.
"""

import asyncio
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import structlog
from fastapi.sse import format_sse_event
from sqlalchemy.exc import SQLAlchemyError

from app.api import wire
from app.store.models import JobEventRow
from app.store.repositories import Events, Keys
from app.store.sessions import Database

log = structlog.get_logger(__name__)

MOST_WAITING = 200
"""Events that wait for a client that does not read; one with more reads the history again, at its own pace."""
STILL_HERE = format_sse_event(comment="still here")


@dataclass(frozen=True, kw_only=True)
class Frame:
    """An event as it goes to every stream of its job."""

    id: int
    text: bytes


def frame(row: JobEventRow) -> Frame:
    """The event in the form of server-sent events."""
    return Frame(id=row.id, text=format_sse_event(data_str=wire.event(row).model_dump_json(), id=str(row.id)))


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one look found."""

    frames: Mapping[str, Sequence[Frame]]
    """By job, oldest first."""
    over: Collection[str]
    """Jobs that had ended before the events were read, and jobs that are gone."""
    ended_keys: Collection[str]


@dataclass(eq=False, kw_only=True)
class Watcher:
    """One stream's end of the feed. It lives on the event loop, as the feed does."""

    job_id: str
    key_id: str | None
    position: int
    """Id of the last event that was taken, or waits to be."""
    over: bool = False
    """True once nothing more comes: the job has ended, or the key has."""
    closed: bool = False
    """True once this feed brings no more; unless it is `over`, there may be more after `position`."""
    _waiting: list[bytes] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, patience_s: float) -> bytes | None:
        """What has come; a comment after `patience_s` of nothing, None when this feed brings no more."""
        if not self._waiting and not self.closed:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._news.wait()
        self._news.clear()
        if not self._waiting:
            return None if self.closed else STILL_HERE
        text = b"".join(self._waiting)
        self._waiting.clear()
        return text

    def tell(self, seen: Seen) -> None:
        """Take over what concerns this stream."""
        if self.key_id in seen.ended_keys:
            self.over = True
            self.close()
            return
        fresh = [one for one in seen.frames.get(self.job_id, ()) if one.id > self.position]
        if len(self._waiting) + len(fresh) > MOST_WAITING:
            self.close()
            return
        if fresh:
            self._waiting += (one.text for one in fresh)
            self.position = fresh[-1].id
            self._news.set()
        if self.job_id in seen.over:
            self.over = True
            self.close()

    def close(self) -> None:
        """Bring no more."""
        self.closed = True
        self._news.set()


class Feed:
    """Hands new events to all watchers. Made for one event loop; only the database is asked from a thread."""

    def __init__(self, database: Database, poll_s: float, stopping: threading.Event) -> None:
        """`stopping` says that the service is to stop; all watchers are let go then."""
        self._database = database
        self._poll_s = poll_s
        self._stopping = stopping
        self._watchers: set[Watcher] = set()

    @contextmanager
    def watch(self, job_id: str, key_id: str | None, after: int) -> Iterator[Watcher]:
        """A watcher of what comes after the event `after` of the job, for as long as the block runs."""
        watcher = Watcher(job_id=job_id, key_id=key_id, position=after)
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    async def run(self) -> None:
        """Look, for ever. While the database does not answer the streams stay open; what was written by then comes after."""
        while True:
            await asyncio.sleep(self._poll_s)
            if self._stopping.is_set():
                for watcher in self._watchers:
                    watcher.close()
                continue
            try:
                await self._look()
            except SQLAlchemyError as error:
                log.error("database unavailable", action="feed", error=str(error))
            except Exception:  # whatever it is, the next look may go well
                log.exception("feed failed", action="feed")

    async def _look(self) -> None:
        # Who joins meanwhile is told at the next look: what is read now may begin after its place.
        watchers = [watcher for watcher in self._watchers if not watcher.closed]
        if not watchers:
            return
        positions: dict[str, int] = {}
        for watcher in watchers:
            positions[watcher.job_id] = min(watcher.position, positions.get(watcher.job_id, watcher.position))
        key_ids = {watcher.key_id for watcher in watchers if watcher.key_id is not None}
        seen = await asyncio.to_thread(_read, self._database, positions, key_ids)
        for watcher in watchers:
            watcher.tell(seen)


def _read(database: Database, positions: Mapping[str, int], key_ids: Collection[str]) -> Seen:
    """What is new after these places of jobs, in three statements."""
    frames: dict[str, list[Frame]] = {}
    with database.read() as session:
        # First who has ended: its last event was written with that, so a stream that ends here has told it.
        over = Events(session).over(positions)
        for row in Events(session).after_each(positions):
            frames.setdefault(row.job_id, []).append(frame(row))
        # Last the keys: of what was written after a key had ended, nothing is told to who had it.
        ended_keys = set(key_ids) - Keys(session).live(key_ids) if key_ids else set[str]()
    return Seen(frames=frames, over=over, ended_keys=ended_keys)
