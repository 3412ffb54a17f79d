"""What a client can do with projects, API keys and the audit trail."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

from secateur.access_schemas import (
    ApiKey,
    ApiKeyCreate,
    AuditEntry,
    Limits,
    NewApiKey,
    Project,
    ProjectCreate,
    ProjectUpdate,
    WhoAmI,
)
from secateur.schemas import Page
from secateur.tables import checked
from secateur.transport import Transport

T = TypeVar("T")


class Access:
    """The part of `Client` that deals with who may do what; not used by itself."""

    _transport: Transport

    def whoami(self) -> WhoAmI:
        """Return what the service makes of this client's key."""
        return self._transport.get("/v1/whoami", WhoAmI)

    def create_key(
        self,
        name: str,
        *,
        scopes: Sequence[str] = ("read", "submit"),
        project_id: str | None = None,
        expires_at: datetime | None = None,
    ) -> NewApiKey:
        """Make an API key and return it; `key` on what comes back is told this once."""
        fields = {"name": name, "scopes": list(scopes), "project_id": project_id, "expires_at": expires_at}
        body = checked(ApiKeyCreate, fields)
        return self._transport.read(self._transport.request("POST", "/v1/api-keys", model=body), NewApiKey)

    def keys(self, *, project_id: str | None = None) -> Iterator[ApiKey]:
        """Iterate over this key and those it made, newest first; over all for an administrator."""
        return self._transport.pages("/v1/api-keys", Page[ApiKey], {"project": project_id})

    def revoke_key(self, key_id: str) -> ApiKey:
        """End a key, and those derived from it, at once and return it."""
        response = self._transport.request("POST", f"/v1/api-keys/{quote(key_id, safe='')}/revoke")
        return self._transport.read(response, ApiKey)

    def create_project(self, name: str, **limits: int | None) -> Project:
        """Make a project and return it; `limits` are those of `Limits`."""
        body = checked(ProjectCreate, {"name": name, "limits": limits})
        return self._transport.read(self._transport.request("POST", "/v1/projects", model=body), Project)

    def projects(self) -> Iterator[Project]:
        """Iterate over the projects, newest first."""
        return self._transport.pages("/v1/projects", Page[Project])

    def project(self, project_id: str) -> Project:
        """Return a project and what it uses."""
        return self._transport.get(_project(project_id), Project)

    def change_project(self, project_id: str, *, name: str | None = None, limits: Limits | None = None) -> Project:
        """Give a project another name, or other limits as a whole, and return it."""
        body = ProjectUpdate(name=name, limits=limits)
        return self._transport.read(self._transport.request("PATCH", _project(project_id), model=body), Project)

    def audit(self, **wanted: Any) -> Iterator[AuditEntry]:
        """Iterate over the audit trail, newest first: all of it, or rows with the `wanted` values (`key_id`, `status`, ...)."""
        return self._transport.pages("/v1/audit", Page[AuditEntry], wanted)


def _project(project_id: str) -> str:
    return f"/v1/projects/{quote(project_id, safe='')}"
