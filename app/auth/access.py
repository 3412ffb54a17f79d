"""The one way into every route: `Needs` says which scope it asks for and who it was that had it."""

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote

from fastapi import Depends, HTTPException, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.auth.keys import identify, refused
from app.auth.limits import effective, network, rate_limited
from app.auth.trail import Trail
from app.errors import ApiProblem
from app.middleware import SAFE_METHODS, is_same_origin
from app.services import Services, ServicesDep
from app.store.models import DEFAULT_PROJECT, ApiKeyRow
from app.store.repositories import FoundKey, Keys
from secateur.access_schemas import Limits, Scope

COOKIE = "secateur_key"
ENDED = "The key has ended."

_bearer = HTTPBearer(auto_error=False, description="An API key, `sct_...`.")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who asks, and what they may see."""

    project_id: str
    """What they make belongs to it."""
    scopes: frozenset[Scope]
    limits: Limits
    key: ApiKeyRow | None
    """None where nobody is asked for one."""
    root_id: str
    """Id of the key that the key goes back to: making keys gives nobody more of what is counted. Empty without a key."""
    by_cookie: bool
    trail: Trail

    @property
    def sees(self) -> str | None:
        """The project whose things they see; None for an administrator, who sees all."""
        return None if Scope.ADMIN in self.scopes else self.project_id

    @property
    def submitter(self) -> str:
        """Who takes turns with others where jobs wait; empty where nobody is asked for a key."""
        return self.root_id

    def limits_of(self, project_id: str) -> Limits | None:
        """The project's limits, where they were found with the key."""
        return self.limits if self.key is not None and project_id == self.project_id else None

    def has(self, scope: Scope) -> bool:
        """True when they may do what needs the scope."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def record(self, session: Session, object_id: str | None = None) -> None:
        """Leave the request's audit row in the transaction that makes its change.

        Raises ApiProblem (401) when the key was revoked since the request began: then nothing is changed.
        """
        if not self.trail.record(session, object_id, while_live=self.key is not None):
            raise refused(ENDED)

    def check(self, session: Session) -> None:
        """Raise ApiProblem (401) when the key has ended since the request began; requests that last ask now and then."""
        if self.key is not None and not Keys(session).is_live(self.key.id):
            raise refused(ENDED)


class Needs:
    """FastAPI dependency: lets in who has `scope` (any key where it is None) and returns their `Access`.

    Raises ApiProblem: 401 without a key that counts, 403 without the scope, 429 over a rate. A `page` leads to the login
    instead of a 401. An `upload` counts as one. Of a `quiet` route, as of GET, only refusals are audited. Routes that make a change in a
    transaction with `Access.record` may be `frequent`: a key that was let in within the last second is not looked up for them.
    """

    def __init__(
        self,
        scope: Scope | None,
        *,
        upload: bool = False,
        page: bool = False,
        quiet: bool = False,
        frequent: bool = False,
    ) -> None:
        self.scope = scope
        self._upload, self._page, self._quiet, self._frequent = upload, page, quiet, frequent

    async def __call__(self, request: Request, services: ServicesDep, credentials: Credentials) -> Access:
        trail = name_trail(request)
        if not services.settings.asks_for_keys:
            scopes, limits = frozenset({Scope.ADMIN}), effective(services.settings, {})
            who = Access(
                project_id=DEFAULT_PROJECT, scopes=scopes, limits=limits, key=None, root_id="", by_cookie=False,
                trail=trail,
            )  # fmt: skip
        else:
            who = await self._known(request, services, credentials, trail)
        trail.project_id, trail.anonymous = who.project_id, False
        _count(services, who, upload=self._upload)
        if self.scope is not None and not who.has(self.scope):
            raise ApiProblem("scope_missing", f"The key lacks the scope {self.scope.value!r}.")
        trail.changes = request.method not in SAFE_METHODS and not self._quiet
        return who

    async def _known(
        self, request: Request, services: Services, credentials: HTTPAuthorizationCredentials | None, trail: Trail
    ) -> Access:
        text, by_cookie = credentials.credentials if credentials else "", False
        if "authorization" not in request.headers:
            text, by_cookie = cookie_key(request), True
        try:
            found = services.recent.get(text) if self._frequent else None
            if found is None:
                found = await run_in_threadpool(let_in, services, trail, text)
                if self._frequent:
                    services.recent.put(text, found)
        except ApiProblem as problem:
            if self._page and problem.status_code == 401:
                raise _to_login(request) from problem
            raise
        trail.key_id = found.row.id
        return Access(
            project_id=found.row.project_id, scopes=frozenset(map(Scope, found.row.scopes)),
            limits=effective(services.settings, found.limits), key=found.row, root_id=found.root_id,
            by_cookie=by_cookie, trail=trail,
        )  # fmt: skip


def let_in(services: Services, trail: Trail, text: str) -> FoundKey:
    """The live key that `text` is, noted as used. Raises ApiProblem: 401, or 429 after too many of those."""
    try:
        if not text:
            detail = "Send a key of this service as `Authorization: Bearer sct_...`."
            raise ApiProblem("key_required", detail, headers={"WWW-Authenticate": "Bearer"})
        with services.database.read() as session:
            found = identify(session, text)
    except ApiProblem:
        # A right key is let in all the same: an address may be a proxy's, behind which not everybody is at fault.
        tries = services.limiter.refusals(trail.address, services.settings.max_refusals_per_minute, count=False)
        if not tries.allowed:
            raise rate_limited(tries) from None
        raise
    trail.key_id = found.row.id
    if not found.used_lately:
        with services.database.write() as session:
            Keys(session).use(found.row.id)
    return found


def cookie_key(request: Request) -> str:
    """The key in the cookie; empty where there is none, or where the request may be another site's idea."""
    fetch_site = request.headers.get("sec-fetch-site")
    if "origin" in request.headers:
        ours = is_same_origin(request.headers)
    elif request.method in SAFE_METHODS:
        ours = fetch_site in (None, "same-origin", "none")
    else:
        ours = fetch_site == "same-origin"
    return request.cookies.get(COOKIE, "") if ours else ""


def name_trail(request: Request) -> Trail:
    """The trail of this request, told which route it is and what it is about."""
    trail: Trail = request.state.trail
    route = request.scope["route"]
    trail.action = f"{request.method} {route.path}"
    trail.success = route.status_code or 200
    _, *parts = route.path.split("/")
    trail.object_kind = parts[parts[0] == "v1"]
    trail.object_id = next(map(str, request.path_params.values()), None)
    return trail


def _count(services: Services, who: Access, *, upload: bool) -> None:
    """Count the request; raises ApiProblem (429) for one too many, which leaves no audit row: that would be many, too."""
    counted = who.root_id or network(who.trail.address)
    rates = [services.limiter.requests(counted, who.limits.max_requests_per_minute or 0)]
    if upload and rates[0].allowed:
        rates.append(services.limiter.uploads(counted, who.limits.max_uploads_per_hour or 0))
    if not rates[-1].allowed:
        raise rate_limited(rates[-1])
    who.trail.headers.update(rates[-1].headers or rates[0].headers)


def _to_login(request: Request) -> HTTPException:
    path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return HTTPException(303, headers={"Location": f"/login?next={quote(path, safe='')}"})


Anybody = Annotated[Access, Depends(Needs(None))]
"""Any key, whatever it may do."""
Reader = Annotated[Access, Depends(Needs(Scope.READ))]
PageReader = Annotated[Access, Depends(Needs(Scope.READ, page=True))]
Submitter = Annotated[Access, Depends(Needs(Scope.SUBMIT))]
JobSubmitter = Annotated[Access, Depends(Needs(Scope.SUBMIT, frequent=True))]
"""Submits many jobs a second, perhaps."""
Asker = Annotated[Access, Depends(Needs(Scope.SUBMIT, quiet=True))]
"""Asks what a job would meet, and changes nothing."""
Uploader = Annotated[Access, Depends(Needs(Scope.SUBMIT, upload=True))]
DeviceKeeper = Annotated[Access, Depends(Needs(Scope.DEVICES))]
TableUploader = Annotated[Access, Depends(Needs(Scope.DEVICES, upload=True))]
Agent = Annotated[Access, Depends(Needs(Scope.AGENT))]
LivingAgent = Annotated[Access, Depends(Needs(Scope.AGENT, quiet=True))]
"""Gives a sign of life, many times an hour."""
Admin = Annotated[Access, Depends(Needs(Scope.ADMIN))]
