"""/v1/audit: who changed what, and who was refused."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.api.paging import Before, Limit, to_page
from app.auth.access import Admin
from app.errors import responses
from app.services import ServicesDep
from app.store.repositories import Audit
from secateur.access_schemas import AuditEntry
from secateur.schemas import Page

router = APIRouter(prefix="/v1/audit", tags=["access"])

Text = Annotated[str | None, Query(max_length=200, description="Only rows with this value.")]


@router.get("", responses=responses("bad_cursor"))
def list_audit(
    who: Admin,
    services: ServicesDep,
    before: Before,
    limit: Limit = 50,
    key_id: Text = None,
    project_id: Text = None,
    action: Text = None,
    object_kind: Text = None,
    object_id: Text = None,
    request_id: Text = None,
    status: Annotated[int | None, Query(ge=100, le=599, description="Only rows of this status.")] = None,
) -> Page[AuditEntry]:
    """Newest first: one row for each request that was let in to change something, and for each that was refused."""
    given = {
        "key_id": key_id, "project_id": project_id, "action": action, "object_kind": object_kind,
        "object_id": object_id, "request_id": request_id, "status": status,
    }  # fmt: skip
    wanted = {name: value for name, value in given.items() if value is not None}
    with services.database.read() as session:
        page = Audit(session).page(wanted=wanted, before=before, limit=limit)
        return to_page(page, AuditEntry, lambda row: AuditEntry.model_validate(row, from_attributes=True))
