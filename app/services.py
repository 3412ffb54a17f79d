"""What the routes need, made once when the app starts."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from app.auth.limits import RateLimiter
from app.auth.recent import RecentKeys
from app.queue import Queue
from app.settings import Settings
from app.store.blobs import BlobStore
from app.store.blobs_open import open_blobs
from app.store.repositories import Holds
from app.store.sessions import Database


@dataclass(frozen=True, kw_only=True)
class Services:
    """Settings, database, files, queue, rates and lately used keys of one running app."""

    settings: Settings
    database: Database
    blobs: BlobStore
    queue: Queue
    limiter: RateLimiter
    recent: RecentKeys = field(default_factory=RecentKeys)

    def drop_blobs(self, sha256s: Iterable[str]) -> int:
        """Delete those of the blobs that no row and no hold needs; returns how many went.

        Only after the commit that took their rows away: a file that went first would be missed if the commit fails.
        """
        num_gone = 0
        for sha256 in sha256s:
            with self.database.write() as session:
                Holds(session).lock(sha256)
                num_gone += not Holds(session).is_referenced(sha256) and self.blobs.delete(sha256)
        return num_gone

    def close(self) -> None:
        """Give back every connection."""
        self.queue.close()
        self.database.close()


def open_services(settings: Settings) -> Services:
    """Open the (migrated) database and the data folder of `settings`."""
    return Services(
        settings=settings,
        database=Database(settings.url, pool_size=20, trusted_s=1.0),
        blobs=open_blobs(settings),
        queue=Queue(settings.url, version=settings.queue_version),
        limiter=RateLimiter(),
    )


async def get_services(request: Request) -> Services:
    """FastAPI dependency; one that is not async would take a thread for every request."""
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(get_services)]
