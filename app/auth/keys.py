"""Keys: made, shown once, kept as a hash, found again."""

import hashlib
import hmac
import re
import secrets
from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from app.auth.trail import record_shell
from app.errors import ApiProblem
from app.settings import Settings
from app.store.models import DEFAULT_PROJECT, ApiKeyRow
from app.store.repositories import FoundKey, Keys, Projects
from app.store.sessions import Database
from secateur.access_schemas import Scope

LOGIN_HOURS = 12.0
_KEY = re.compile(r"(sct_[a-z2-7]{8})_[A-Za-z0-9_-]{43}")
_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
_NOBODYS = hashlib.sha256(b"").hexdigest()


def issue(
    session: Session,
    *,
    project_id: str,
    name: str,
    scopes: set[Scope],
    expires_at: datetime | None = None,
    maker: ApiKeyRow | None = None,
    derived: bool = False,
) -> tuple[ApiKeyRow, str]:
    """Store a new key and return its row and the key itself, which nobody can tell again.

    A `derived` key ends with its `maker`: no later, and when that one is revoked. Raises ApiProblem (401) where it has been.
    """
    if maker is not None and derived:
        if not Keys(session).is_live(maker.id, share=True):
            raise refused("The key has ended.")
        ends = [moment for moment in (expires_at, maker.expires_at) if moment is not None]
        expires_at = min(ends, default=None)
    # 256 random bits need no slow hash.
    prefix = "sct_" + "".join(secrets.choice(_LETTERS) for _ in range(8))
    text = f"{prefix}_{secrets.token_urlsafe(32)}"
    row = Keys(session).add(
        project_id=project_id,
        name=name,
        prefix=prefix,
        sha256=_digest(text),
        scopes=sorted(scopes),
        expires_at=expires_at,
        created_by=maker.id if maker else None,
        derived=derived,
    )
    return row, text


def log_in(session: Session, maker: ApiKeyRow) -> tuple[ApiKeyRow, str]:
    """A key for a browser, with all that `maker` may do, for half a day at most."""
    Keys(session).forget_ended()
    until = datetime.now(UTC) + timedelta(hours=LOGIN_HOURS)
    return issue(
        session, project_id=maker.project_id, name=f"login of {maker.prefix}", scopes=set(map(Scope, maker.scopes)),
        expires_at=until, maker=maker, derived=True,
    )  # fmt: skip


def make_from_shell(session: Session, *, project_id: str, name: str, scopes: set[Scope]) -> str:
    """Make a key as somebody who has the database may; raises LookupError for a project that is not there."""
    if Projects(session).get(project_id) is None:
        raise LookupError(f"there is no project {project_id!r}")
    row, text = issue(session, project_id=project_id, name=name, scopes=scopes)
    record_shell(session, row)
    return text


def make_first(settings: Settings) -> str | None:
    """The first administrator's key; None where there is or ever was one. Processes that start at once make one together."""
    database = Database(settings.url)
    try:
        with database.write() as session:
            Projects(session).get(DEFAULT_PROJECT, lock=True)
            if Keys(session).has_admin():
                return None
            return make_from_shell(
                session, project_id=DEFAULT_PROJECT, name="first administrator", scopes={Scope.ADMIN}
            )
    finally:
        database.close()


def identify(session: Session, text: str) -> FoundKey:
    """The live key that `text` is; raises ApiProblem (401). Takes as long for any text of a key's form."""
    form = _KEY.fullmatch(text)
    found = Keys(session).find(form[1]) if form else None
    if not hmac.compare_digest(_digest(text), found.row.sha256 if found else _NOBODYS) or found is None:
        raise refused("This is no key of this service.")
    if not found.live:
        raise refused("The key was revoked." if found.row.revoked_at else "The key has expired.")
    return found


def refused(detail: str) -> ApiProblem:
    """A 401 for a key that does not count."""
    return ApiProblem("key_refused", detail, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
