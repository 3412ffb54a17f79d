"""The wire of projects, API keys and the audit trail; what they share with the rest is in `secateur.schemas`."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, BeforeValidator, Field

from secateur.schemas import Name, Wire


class Scope(StrEnum):
    """What a key may do; closed set."""

    READ = "read"  # look at everything of its project, and at devices and tables
    SUBMIT = "submit"  # upload, submit, cancel, retry and delete things of its project
    DEVICES = "devices"  # make and delete devices, import, publish and delete tables, build them
    AGENT = "agent"  # measure for jobs of every project that name its device
    ADMIN = "admin"  # all of that in every project; projects, keys and the audit trail


LAST = datetime(9999, 1, 1, tzinfo=UTC)
"""Later moments overflow once they are told in UTC."""


def _moment(value: object) -> object:
    """Raise ValueError for a number of seconds, which pydantic takes for a moment, as a number or as text."""
    if isinstance(value, datetime) or (isinstance(value, str) and ":" in value):
        return value
    raise ValueError("give a moment with its offset, as in 2030-01-31T12:00:00Z")


Most = Annotated[int, Field(strict=True, ge=0, lt=2**53)]


class Limits(Wire):
    """What a project may use; null is the service's own limit, 0 none."""

    max_requests_per_minute: Most | None = None
    """Of each of its keys."""
    max_uploads_per_hour: Most | None = None
    """Of each of its keys."""
    max_active_jobs: Most | None = None
    """Jobs and table builds that have not ended."""
    max_stored_bytes: Most | None = None
    """Models, datasets and the files of jobs."""


class ProjectCreate(Wire):
    """A team of its own."""

    name: Name
    limits: Limits = Limits()


class ProjectUpdate(Wire):
    """What to change of a project; `limits` are replaced as a whole."""

    name: Name | None = None
    limits: Limits | None = None


class Project(Wire):
    """A team: what it may use and what it does."""

    id: str
    name: str
    limits: Limits
    num_active_jobs: int
    stored_bytes: int
    created_at: datetime


class ApiKeyCreate(Wire):
    """A key of one's own project, with scopes one has; an administrator may make any."""

    name: Name
    scopes: list[Scope] = Field(default=[Scope.READ, Scope.SUBMIT], min_length=1, max_length=len(Scope))
    expires_at: Annotated[AwareDatetime, Field(lt=LAST), BeforeValidator(_moment)] | None = None
    """Null: it ends when it is revoked, or with the key that made it, where that was not an administrator's."""
    project_id: Name | None = None
    """Null: the project of the key that makes it."""


class ApiKey(Wire):
    """A key, without the key."""

    id: str
    project_id: str
    name: str
    prefix: str
    """What the key begins with."""
    scopes: list[Scope]
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """To the minute."""
    created_by: str | None
    """Id of the key that made it; null for one made with access to the database."""
    derived: bool
    """True where it ends with the key that made it."""
    created_at: datetime


class NewApiKey(ApiKey):
    """A key that was just made: the only time it is shown."""

    key: str


class WhoAmI(Wire):
    """Who the service takes the caller for."""

    auth: bool
    """False where the service asks nobody for a key: then everybody is the administrator."""
    project: Project
    scopes: list[Scope]
    key: ApiKey | None
    limits: Limits
    """Those in effect, the service's own filled in."""


class AuditEntry(Wire):
    """One request that changed something or was refused."""

    id: int
    created_at: datetime
    key_id: str | None
    project_id: str | None
    action: str
    """Method and route."""
    object_kind: str | None
    object_id: str | None
    status: int
    request_id: str
    address: str
