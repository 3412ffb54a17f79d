"""What happens around every request: an id and a log line, the Host and Origin check, limits, safe headers."""

import ipaddress
import re
import time
import uuid
from collections.abc import Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.addresses import has_nul
from app.errors import ApiProblem, problem_response
from app.settings import Settings
from app.tracing import incoming_traceparent

log = structlog.get_logger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_MEASURED = "/v1/measurements/"
_PIECES = "/v1/uploads/"
_LOOPBACK_NAMES = ("localhost",)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


class RequestMiddleware:
    """Outermost: gives the request its id, logs it, adds safe headers, and turns what nobody caught into a 500."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        structlog.contextvars.clear_contextvars()
        traceparent = incoming_traceparent(Headers(scope=scope))
        structlog.contextvars.bind_contextvars(request_id=request_id, traceparent=traceparent)
        began = time.perf_counter()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            log.exception("unhandled error", action="request", method=scope["method"], path=scope["path"])
            if status:  # too late for another answer: cut the connection, so that nobody takes half for all
                raise
            detail = f"Something broke in the service; its log has the details under request id {request_id}."
            await problem_response(ApiProblem("internal_error", detail))(scope, receive, send_with_headers)
        finally:
            log.info(
                "request",
                action="request",
                method=scope["method"],
                path=scope["path"],
                status=status,
                duration_ms=round((time.perf_counter() - began) * 1000, 1),
            )


class GuardMiddleware:
    """Keeps web pages in a browser from driving a service that asks nobody who they are.

    The Host header must name this service (a page that rebinds its own DNS name to us still sends its own name), and
    a request that says it comes from another web origin must come from an allowed one.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._hosts = {*_LOOPBACK_NAMES, settings.host.lower(), *(host.lower() for host in settings.allowed_hosts)}
        self._origins = {origin.lower().rstrip("/") for origin in settings.allowed_origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            problem = self._fault(scope, Headers(scope=scope), scope["method"])
            if problem:
                await problem_response(problem)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _fault(self, scope: Scope, headers: Headers, method: str) -> ApiProblem | None:
        if has_nul(scope):
            return ApiProblem("malformed_request", "The address holds a NUL, which names nothing here.")
        host = headers.get("host", "")
        if not self._knows(host):
            return ApiProblem("host_refused", f"This service does not answer for the host {host!r}.")
        origin = headers.get("origin")
        if origin is not None:
            if not is_same_origin(headers) and origin.lower() not in self._origins:
                return ApiProblem("origin_refused", f"Pages of {origin!r} may not use this service.")
            return None
        # Browsers that send no Origin with a form still say where it comes from.
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and method not in SAFE_METHODS:
            return ApiProblem("origin_refused", "Pages of another site may not change anything here.")
        return None

    def _knows(self, host: str) -> bool:
        if "*" in self._hosts:
            return True
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        return name in self._hosts or _is_address(name)


class LimitMiddleware:
    """Refuses bodies over the limit, by what they announce and by what is really received.

    `upload_paths` are left out: what is posted there is counted where it is read. What agents send may hold a table.
    """

    def __init__(self, app: ASGIApp, settings: Settings, upload_paths: Collection[str]) -> None:
        self._app = app
        self._settings = settings
        self._upload_paths = frozenset(upload_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_upload(scope["method"], scope["path"]):
            await self._app(scope, receive, send)
            return
        measured = scope["path"].startswith(_MEASURED)
        max_bytes = self._settings.max_lut_bytes if measured else self._settings.max_body_bytes
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > max_bytes:
            await problem_response(_too_large(max_bytes))(scope, receive, send)
            return
        num_bytes = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > max_bytes:
                raise _too_large(max_bytes)
            return message

        await self._app(scope, counted, send)

    def _is_upload(self, method: str, path: str) -> bool:
        return (method == "POST" and path in self._upload_paths) or (method == "PATCH" and path.startswith(_PIECES))


def _too_large(max_bytes: int) -> ApiProblem:
    return ApiProblem("body_too_large", f"The body may have {max_bytes} bytes at most.")


def is_same_origin(headers: Headers) -> bool:
    """True when the request says that it comes from a page of this service."""
    origin, host = headers.get("origin", "null"), headers.get("host", "")
    try:
        return origin != "null" and urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    """True for an IP address: nobody can rebind one, and a page that uses it gives its own origin away."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
