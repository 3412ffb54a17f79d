"""/v1/api-keys: made, listed, revoked."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy.orm import Session

from app.api.paging import Before, Limit, to_page
from app.auth.access import Access, Anybody
from app.auth.keys import issue
from app.errors import ApiProblem, NotFound, responses
from app.services import ServicesDep
from app.store.models import ApiKeyRow
from app.store.repositories import Keys, Projects
from secateur.access_schemas import ApiKey, ApiKeyCreate, NewApiKey, Scope
from secateur.schemas import ErrorDetail, Page

router = APIRouter(prefix="/v1/api-keys", tags=["access"])


@router.get("", responses=responses("bad_cursor"))
def list_keys(
    who: Anybody,
    services: ServicesDep,
    before: Before,
    limit: Limit = 50,
    project: Annotated[str | None, Query(max_length=64, description="Only keys of this project.")] = None,
) -> Page[ApiKey]:
    """Newest first: the key that asks and those it made; all for an administrator."""
    with services.database.read() as session:
        page = Keys(session).page(project_id=project, seen_by=_seen_by(who), before=before, limit=limit)
        return to_page(page, ApiKey, shown)


@router.post("", status_code=201, responses=responses("unsupported_media_type", "body_too_large", "unknown_project"))
def create_key(who: Anybody, wanted: ApiKeyCreate, response: Response, services: ServicesDep) -> NewApiKey:
    """Make a key, which this answer alone tells. It may do no more than the key that makes it, and ends with that one.

    Keys that an administrator makes may be of any project, and stand on their own.
    """
    derived = not who.has(Scope.ADMIN)
    with services.database.write() as session:
        project_id = _settle(session, who, wanted)
        row, text = issue(
            session, project_id=project_id, name=wanted.name, scopes=set(wanted.scopes),
            expires_at=wanted.expires_at, maker=who.key, derived=derived,
        )  # fmt: skip
        who.record(session, row.id)
    response.headers["Location"] = f"/v1/api-keys/{row.id}"
    response.headers["Cache-Control"] = "no-store"
    return NewApiKey.model_validate({**shown(row).model_dump(), "key": text})


@router.get("/{key_id}", responses=responses("not_found"))
def get_key(key_id: str, who: Anybody, services: ServicesDep) -> ApiKey:
    """One key."""
    with services.database.read() as session:
        return shown(_require_key(session, who, key_id))


@router.post("/{key_id}/revoke", responses=responses("not_found"))
def revoke_key(key_id: str, who: Anybody, services: ServicesDep) -> ApiKey:
    """End the key at once, and those derived from it, browsers' included. Asking twice is harmless."""
    with services.database.write() as session:
        _require_key(session, who, key_id)
        who.record(session)
        Keys(session).revoke(key_id)
        row = _require_key(session, who, key_id)
    services.recent.clear()
    return shown(row)


def shown(row: ApiKeyRow) -> ApiKey:
    """The key as the wire has it."""
    return ApiKey.model_validate({name: getattr(row, name) for name in ApiKey.model_fields})


def _seen_by(who: Access) -> str | None:
    return None if who.has(Scope.ADMIN) or who.key is None else who.key.id


def _require_key(session: Session, who: Access, key_id: str) -> ApiKeyRow:
    row = Keys(session).get(key_id, seen_by=_seen_by(who))
    if row is None:
        raise NotFound("API key", key_id)
    return row


def _settle(session: Session, who: Access, wanted: ApiKeyCreate) -> str:
    """The project of the key; raises ApiProblem: 403 for a scope the maker lacks, 422 for a project or an end that cannot be."""
    lacking = [scope.value for scope in wanted.scopes if not who.has(scope)]
    if lacking:
        raise ApiProblem("scope_missing", f"The key lacks the scope {lacking[0]!r}, so it can give it to nobody.")
    project_id = wanted.project_id or who.project_id
    if who.sees not in (None, project_id) or Projects(session).get(project_id) is None:
        detail = f"There is no project {project_id!r}."
        raise ApiProblem("unknown_project", detail, errors=[ErrorDetail(pointer="/project_id", detail=detail)])
    if wanted.expires_at is not None and wanted.expires_at <= datetime.now(UTC):
        detail = "This moment is past."
        raise ApiProblem("invalid_request", detail, errors=[ErrorDetail(pointer="/expires_at", detail=detail)])
    return project_id
