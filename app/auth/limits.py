"""How much of what: requests and uploads by the clock of this process, jobs and bytes by the rows of the database."""

import ipaddress
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from sqlalchemy.orm import Session

from app.errors import ApiProblem
from app.settings import Settings
from app.store.repositories import Projects
from secateur.access_schemas import Limits

JOBS_AGAIN_S = 30
_LIMITS = tuple(Limits.model_fields)


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What is left of a rate after a request."""

    allowed: bool
    headers: Mapping[str, str]
    """For the answer; those of a refusal say when to come again."""


class RateLimiter:
    """Counts requests, each API process for itself, in windows that begin with the first one; an amount of 0 is no limit."""

    def __init__(self) -> None:
        self._counter = FixedWindowRateLimiter(MemoryStorage())

    def requests(self, who: str, most: int) -> Allowance:
        """Count one request of `who`, who may make so many a minute."""
        return self._count(RateLimitItemPerMinute(most, namespace="requests"), who)

    def uploads(self, who: str, most: int) -> Allowance:
        """Count one upload of `who`, who may make so many an hour."""
        return self._count(RateLimitItemPerHour(most, namespace="uploads"), who)

    def refusals(self, address: str, most: int, *, count: bool = True) -> Allowance:
        """Count one request that nobody known made from `address`; with `count` false only look."""
        return self._count(RateLimitItemPerMinute(most, namespace="refusals"), network(address), count=count)

    def _count(self, item: RateLimitItem, who: str, *, count: bool = True) -> Allowance:
        if not item.amount:
            return Allowance(allowed=True, headers={})
        allowed = self._counter.hit(item, who) if count else self._counter.test(item, who)
        stats = self._counter.get_window_stats(item, who)
        wait_s = max(1, math.ceil(stats.reset_time - time.time()))
        headers = {
            "RateLimit-Policy": f'"{item.namespace}";q={item.amount};w={item.get_expiry()}',
            "RateLimit": f'"{item.namespace}";r={stats.remaining if allowed else 0};t={wait_s}',
        }
        return Allowance(allowed=allowed, headers=headers if allowed else {**headers, "Retry-After": str(wait_s)})


def network(address: str) -> str:
    """What is counted of an address: of IPv6 the /64, all of which one host may use."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if not isinstance(parsed, ipaddress.IPv6Address):
        return address
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed), 64), strict=False))


def rate_limited(allowance: Allowance) -> ApiProblem:
    """A 429 that says when to come again."""
    wait_s = allowance.headers["Retry-After"]
    return ApiProblem("rate_limited", f"Too many requests; try again in {wait_s} s.", headers=allowance.headers)


def effective(settings: Settings, overrides: Mapping[str, int | None]) -> Limits:
    """The limits of a project: its own, and the service's where it has none."""
    own = {name: value for name, value in overrides.items() if value is not None}
    return Limits.model_validate({name: own.get(name, getattr(settings, name)) for name in _LIMITS})


def check_jobs(
    session: Session, settings: Settings, project_id: str, *, known: Limits | None = None, num_joining: int = 0
) -> None:
    """Raise ApiProblem (429) unless the project may have one job more; until we commit nobody else adds one.

    `known` are the project's limits where they were looked up a moment ago; `num_joining` jobs are about to be inserted.
    """
    most = (known or _limits(session, settings, project_id)).max_active_jobs
    if not most:
        return
    Projects(session).get(project_id, lock=True)
    num_active = Projects(session).num_active_jobs(project_id) + num_joining
    if num_active >= most:
        detail = f"The project has {num_active} jobs that have not ended; it may have {most}."
        raise ApiProblem("job_quota", detail, headers={"Retry-After": str(JOBS_AGAIN_S)})


def check_bytes(session: Session, settings: Settings, project_id: str, more_bytes: int, *, lock: bool = True) -> None:
    """Raise ApiProblem (403) unless the project may store so many bytes more; with `lock` nobody else adds any until we commit."""
    most = _limits(session, settings, project_id).max_stored_bytes
    if not most:
        return
    if lock:
        Projects(session).get(project_id, lock=True)
    stored_bytes = Projects(session).stored_bytes(project_id)
    if stored_bytes + more_bytes > most:
        detail = f"The project stores {stored_bytes} bytes and may store {most}; this needs {more_bytes} more."
        raise ApiProblem("storage_quota", detail)


def _limits(session: Session, settings: Settings, project_id: str) -> Limits:
    project = Projects(session).get(project_id)
    return effective(settings, project.limits if project else {})
