"""/healthz and /readyz, for whoever restarts or routes to this process."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from app.errors import PROBLEMS, ApiProblem, responses
from app.services import ServicesDep
from app.store.migrate import is_current
from app.store.repositories import Workers

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


def _stopping(request: Request) -> bool:
    return bool(request.app.state.stopping.is_set())


@router.get("/readyz", responses=responses("not_ready", asked=False))
def readyz(services: ServicesDep, stopping: Annotated[bool, Depends(_stopping)]) -> dict[str, Any]:
    """The process can serve: the database answers and has every migration. Anybody may ask, so no job is told of."""
    if stopping:
        raise ApiProblem("not_ready", "The service is stopping.")
    with services.database.read() as session:
        if not is_current(session.connection()):
            raise ApiProblem("not_ready", PROBLEMS["not_ready"].meaning)
        num_workers = len(Workers(session).live(services.settings.worker_timeout_s))
    return {"status": "ready", "num_live_workers": num_workers}
