"""What the routes need, made once when the app starts."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from app.queue import Queue
from app.settings import Settings
from app.store.blobs import BlobStore
from app.store.blobs_open import open_blobs
from app.store.repositories import Holds
from app.store.sessions import Database


@dataclass(frozen=True, kw_only=True)
class Services:
    """Settings, database, files and queue of one running app."""

    settings: Settings
    database: Database
    blobs: BlobStore
    queue: Queue

    def drop_blob(self, session: Session, sha256: str) -> None:
        """Delete the blob unless a row (as `session` sees them) or a hold needs it."""
        holds = Holds(session)
        holds.lock(sha256)
        if not holds.is_referenced(sha256):
            self.blobs.delete(sha256)

    def sweep(self, older_than_s: float = 3600.0) -> int:
        """Remove what uploads left that a killed process had begun; returns how many files went."""
        with self.database.write() as session:
            abandoned = Holds(session).release_old(older_than_s)
            for sha256 in abandoned:
                self.drop_blob(session, sha256)
        return len(abandoned) + self.blobs.delete_stale_temporaries(older_than_s)

    def close(self) -> None:
        """Give back every connection."""
        self.queue.close()
        self.database.close()


def open_services(settings: Settings) -> Services:
    """Open the (migrated) database and the data folder of `settings`."""
    return Services(
        settings=settings,
        database=Database(settings.url, pool_size=20),
        blobs=open_blobs(settings),
        queue=Queue(settings.url, version=settings.queue_version),
    )


def get_services(request: Request) -> Services:
    """FastAPI dependency."""
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(get_services)]
