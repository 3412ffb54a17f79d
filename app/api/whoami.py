"""/v1/whoami: what the service makes of the caller."""

from fastapi import APIRouter

from app.api.api_keys import shown
from app.api.projects import shown_project
from app.auth.access import Anybody
from app.errors import responses
from app.services import ServicesDep
from secateur.access_schemas import WhoAmI

router = APIRouter(prefix="/v1/whoami", tags=["access"])


@router.get("", responses=responses())
def whoami(who: Anybody, services: ServicesDep) -> WhoAmI:
    """The key that asks, its project, and the limits that count for it."""
    with services.database.read() as session:
        project = shown_project(session, who.project_id)
    return WhoAmI(
        auth=services.settings.asks_for_keys, project=project, scopes=sorted(who.scopes), limits=who.limits,
        key=shown(who.key) if who.key else None,
    )  # fmt: skip
