"""/v1/projects: teams, and how much each may use."""

from fastapi import APIRouter, Response
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.api.paging import Before, Limit, to_page
from app.auth.access import Admin
from app.errors import ApiProblem, NotFound, responses
from app.services import ServicesDep
from app.store.models import ProjectRow
from app.store.repositories import Projects, Usage
from secateur.access_schemas import Limits, Project, ProjectCreate, ProjectUpdate
from secateur.schemas import Page

router = APIRouter(prefix="/v1/projects", tags=["access"])

_BODY = ("unsupported_media_type", "body_too_large", "project_exists")


@router.get("", responses=responses("bad_cursor"))
def list_projects(who: Admin, services: ServicesDep, before: Before, limit: Limit = 50) -> Page[Project]:
    """Newest first; `default` comes last."""
    with services.database.read() as session:
        page = Projects(session).page(before=before, limit=limit)
        usage = Projects(session).usage([row.id for row in page.rows])
        return to_page(page, Project, lambda row: _shown(row, usage[row.id]))


@router.post("", status_code=201, responses=responses(*_BODY))
def create_project(who: Admin, wanted: ProjectCreate, response: Response, services: ServicesDep) -> Project:
    """Make a project; its first key is made with POST /v1/api-keys and its `project_id`."""
    try:
        with services.database.write() as session:
            row = Projects(session).add(name=wanted.name, limits=wanted.limits.model_dump(exclude_none=True))
            who.record(session, row.id)
    except IntegrityError:
        raise _taken(wanted.name) from None
    response.headers["Location"] = f"/v1/projects/{row.id}"
    return _shown(row, Usage())


@router.get("/{project_id}", responses=responses("not_found"))
def get_project(project_id: str, who: Admin, services: ServicesDep) -> Project:
    """One project, and what it uses now."""
    with services.database.read() as session:
        return shown_project(session, project_id)


@router.patch("/{project_id}", responses=responses("not_found", *_BODY))
def change_project(project_id: str, who: Admin, wanted: ProjectUpdate, services: ServicesDep) -> Project:
    """Give it another name or other limits, which count within a second."""
    try:
        with services.database.write() as session:
            row = Projects(session).get(project_id, lock=True)
            if row is None:
                raise NotFound("project", project_id)
            row.name = wanted.name or row.name
            if wanted.limits is not None:
                row.limits = wanted.limits.model_dump(exclude_none=True)
            session.flush()
            who.record(session)
            shown = shown_project(session, project_id)
    except IntegrityError:
        raise _taken(str(wanted.name)) from None
    services.recent.clear()
    return shown


def shown_project(session: Session, project_id: str) -> Project:
    """The project as the wire has it; raises 404."""
    row = Projects(session).get(project_id)
    if row is None:
        raise NotFound("project", project_id)
    return _shown(row, Projects(session).usage([project_id])[project_id])


def _shown(row: ProjectRow, usage: Usage) -> Project:
    return Project(
        id=row.id, name=row.name, limits=Limits.model_validate(row.limits), num_active_jobs=usage.num_active_jobs,
        stored_bytes=usage.stored_bytes, created_at=row.created_at,
    )  # fmt: skip


def _taken(name: str) -> ApiProblem:
    return ApiProblem("project_exists", f"There is a project {name!r} already.")
