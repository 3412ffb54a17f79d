"""Counts and times every request, by the template of its route and never by its path."""

import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.metrics import Metrics

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_CUT_OFF = "cut off"


class MetricsMiddleware:
    """Outside all others, so that it sees what is really answered."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        metrics = self._metrics
        began = time.perf_counter()
        method = scope["method"] if scope["method"] in _METHODS else "other"
        status, gauge = _CUT_OFF, metrics.in_flight
        gauge.inc()

        def told() -> None:
            metrics.duration_s.labels(method, _route(scope)).observe(time.perf_counter() - began)

        async def send_watched(message: Message) -> None:
            nonlocal status, gauge
            if message["type"] == "http.response.start":
                status = str(message["status"])
                if Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream"):
                    told()
                    gauge.dec()
                    gauge = metrics.streams
                    gauge.inc()
            await send(message)

        try:
            await self._app(scope, receive, send_watched)
        finally:
            gauge.dec()
            if gauge is metrics.in_flight:
                told()
            metrics.requests.labels(method, _route(scope), status).inc()


def _route(scope: Scope) -> str:
    """The template that matched; one name for all that none did, so that no visitor can make new series."""
    route = scope.get("route")
    if template := getattr(route, "path_format", None):
        return str(template)
    return f"{mount}/{{path}}" if (mount := scope.get("root_path")) else "unmatched"
