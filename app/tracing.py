"""Traces (OpenTelemetry), for whoever sets SECATEUR_OTLP_ENDPOINT; without it nothing is imported, kept or sent.

A trace is handed on as W3C `traceparent`: from the caller to the request, with the job through the database to its
worker, and to the step's child process. Whoever holds one adds spans below it.
"""

import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from structlog.contextvars import get_contextvars

from app.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
SEND_EVERY_S = 1.0


class TracingAbsent(RuntimeError):
    """The setting names a collector and the packages that would talk to it are not installed."""


class Span:
    """Something that takes time within a trace; without tracing it only knows its parent."""

    def __init__(self, span: Any = None, parent: str = "") -> None:
        self._span = span
        self.traceparent = parent if span is None else _traceparent(span)

    def set(self, **attributes: str | int | float) -> None:
        """Add attributes, named below `secateur.`; an `error` also marks the span as failed."""
        if self._span is not None:
            self._span.set_attributes({f"secateur.{name}": value for name, value in attributes.items()})
            if error := attributes.get("error"):
                from opentelemetry.trace import StatusCode

                self._span.set_status(StatusCode.ERROR, str(error))


class Tracing:
    """The spans of one process and the line to their collector."""

    def __init__(self, settings: Settings, service: str) -> None:
        """`service` is what the process is called in traces. Raises TracingAbsent."""
        self.provider = _provider(settings.otlp_endpoint, service) if settings.otlp_endpoint else None

    @contextmanager
    def span(self, name: str, parent: str, **attributes: str | int | float) -> Iterator[Span]:
        """A span below `parent` for as long as the block runs; none where `parent` is empty."""
        span = self._start(name, parent, time.time_ns())
        ours = Span(span, parent)
        ours.set(**attributes)
        try:
            yield ours
        except BaseException as error:
            ours.set(error=type(error).__name__)
            raise
        finally:
            if span is not None:
                span.end()

    def past(self, name: str, parent: str, start_ns: int, end_ns: int, **attributes: str | int | float) -> None:
        """Add a span of something that is over; moments are nanoseconds since 1970."""
        span = self._start(name, parent, start_ns)
        if span is not None:
            Span(span).set(**attributes)
            span.end(max(start_ns, end_ns))

    def close(self) -> None:
        """Send what is left and stop."""
        if self.provider is not None:
            self.provider.shutdown()

    def _start(self, name: str, parent: str, start_ns: int) -> Any:
        if self.provider is None or not parent:
            return None
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator().extract({"traceparent": parent})
        return self.provider.get_tracer("secateur").start_span(name, context=context, start_time=start_ns)


def incoming_traceparent(headers: Mapping[str, str]) -> str:
    """The trace that a request belongs to: our own span of it, else what its caller sent, else nothing."""
    if "opentelemetry.sdk.trace" in sys.modules:
        from opentelemetry import trace

        if trace.get_current_span().get_span_context().is_valid:
            return _traceparent(trace.get_current_span())
    given = headers.get("traceparent", "")
    return given if TRACEPARENT.fullmatch(given) else ""


def current_traceparent() -> str:
    """The trace that what runs now belongs to, as it was bound to the log context; empty without one."""
    return str(get_contextvars().get("traceparent", ""))


def trace_id(traceparent: str) -> str:
    """The trace's id, 32 hex digits; empty for what is no `traceparent`."""
    match = TRACEPARENT.fullmatch(traceparent)
    return match[1] if match else ""


def _traceparent(span: Any) -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def _provider(endpoint: str, service: str) -> "TracerProvider":
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise TracingAbsent(
            'SECATEUR_OTLP_ENDPOINT is set; get what it needs with: pip install "secateur[tracing]"'
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=SEND_EVERY_S * 1000))
    return provider
