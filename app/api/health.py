"""/healthz and /readyz, for whoever restarts or routes to this process."""

import threading
import time
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.errors import ApiProblem, responses
from app.services import Services, ServicesDep
from app.store.migrate import is_current
from app.store.repositories import Workers

router = APIRouter(tags=["health"])

FRESH_S = 1.0
"""For how long a look at database and store answers whoever asks next."""


class Readiness:
    """The checks, at most one look a second, however many ask."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._looked_at = -float("inf")
        self._checks: dict[str, dict[str, Any]] = {}
        self.num_live_workers = 0

    def checks(self, services: Services) -> dict[str, dict[str, Any]]:
        """What works, by name: `ok`, and `detail` where it does not."""
        with self._mutex:
            if time.monotonic() - self._looked_at >= FRESH_S:
                self._checks = self._look(services)
                self._looked_at = time.monotonic()
            return self._checks

    def _look(self, services: Services) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        self.num_live_workers = 0
        try:
            with services.database.read() as session:
                found["database"] = {"ok": True}
                found["migrations"] = _said(lambda: _check_migrations(session))
                self.num_live_workers = len(Workers(session).live(services.settings.worker_timeout_s))
        except SQLAlchemyError as error:
            found.setdefault("database", {}).update(ok=False, detail=f"It does not answer ({type(error).__name__}).")
            found.setdefault("migrations", {"ok": False, "detail": "Unknown without the database."})
        found["store"] = _said(lambda: _check_store(services))
        found["workers"] = {"ok": self.num_live_workers > 0}
        if not self.num_live_workers:
            found["workers"]["detail"] = "No worker is live: jobs are taken and wait, uploads are refused."
        return found


def _check_migrations(session: Session) -> None:
    if not is_current(session.connection()):
        raise OSError("The database lacks migrations: start the API or a worker once.")


def _check_store(services: Services) -> None:
    with services.blobs.writer() as writer:  # never committed, so it leaves nothing
        writer.write(b"ready?")


def _said(check: Callable[[], None]) -> dict[str, Any]:
    try:
        check()
    except OSError as error:
        return {"ok": False, "detail": str(error)}
    return {"ok": True}


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


def _stopping(request: Request) -> bool:
    return bool(request.app.state.stopping.is_set())


def _readiness(request: Request) -> Readiness:
    readiness: Readiness = request.app.state.readiness
    return readiness


@router.get("/readyz", responses=responses("not_ready", asked=False))
def readyz(
    services: ServicesDep,
    stopping: Annotated[bool, Depends(_stopping)],
    readiness: Annotated[Readiness, Depends(_readiness)],
) -> dict[str, Any]:
    """The process can serve: `database`, `migrations` and `store` (files can be written) of `checks` are well.

    `workers` is told beside them: without one the API still answers and takes jobs, so `status` is then `degraded`.
    """
    if stopping:
        raise ApiProblem("not_ready", "The service is stopping.", checks={})
    checks = readiness.checks(services)
    broken = [f"{name}: {check['detail']}" for name, check in checks.items() if not check["ok"] and name != "workers"]
    if broken:
        raise ApiProblem("not_ready", " ".join(broken), checks=checks)
    status = "ready" if checks["workers"]["ok"] else "degraded"
    return {"status": status, "checks": checks, "num_live_workers": readiness.num_live_workers}
