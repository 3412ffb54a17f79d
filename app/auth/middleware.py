"""What happens around every request for the audit trail's sake."""

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.auth.trail import Trail
from app.services import Services

log = structlog.get_logger(__name__)


class TrailMiddleware:
    """Gives each request its trail; before the answer leaves, writes the row that no transaction has written."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trail = Trail(
            address=scope["client"][0] if scope.get("client") else "",
            request_id=str(structlog.contextvars.get_contextvars().get("request_id", "")),
            action=f"{scope['method']} {scope['path']}",
        )
        scope.setdefault("state", {})["trail"] = trail
        services: Services = scope["app"].state.services

        async def settled(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(trail.headers)
                await _settle(services, trail, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, settled)
        except Exception:
            await _settle(services, trail, 500)
            raise


async def _settle(services: Services, trail: Trail, status: int) -> None:
    if not trail.is_due(status):
        return
    try:
        await run_in_threadpool(_write, services, trail, status)
    except SQLAlchemyError as error:
        # The answer counts for more than its row; what changed something has its row by now.
        log.error("audit row lost", action="audit", audited=trail.action, status=status, error=str(error))


def _write(services: Services, trail: Trail, status: int) -> None:
    if trail.anonymous:
        # Strangers may not fill the disk: after so many a minute they leave no more rows.
        tries = services.limiter.refusals(trail.address, services.settings.max_refusals_per_minute)
        if not tries.allowed:
            return
    with services.database.write() as session:
        trail.write(session, status)
