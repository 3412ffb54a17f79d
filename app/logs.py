"""Structured logs: one JSON object a line on stderr, in UTC, with what is done (`action`) and the ids of its request, job
and trace where there are any. Records of libraries come out alike, and secrets in none of them.
"""

import logging
import re
import sys
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import structlog
from sqlalchemy import make_url

from app.settings import Settings
from app.tracing import trace_id

HIDDEN = "***"
_SHORTEST_SECRET = 4
_API_KEY = re.compile(r"\bsct_[a-z2-7]{8}_[A-Za-z0-9_-]{43}")
_URL_PASSWORD = re.compile(r"(://[^\s/:@\"']*):[^\s/@\"']+@")
_AUTHORIZATION = re.compile(r"(?i)\b(authorization\W{1,8}(?:\w+\s+)?|bearer\s+)[^\s\"',}]+")


def configure_logs(settings: Settings) -> None:
    """Send structlog's and the standard library's records, warnings and last words through one formatter."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _add_ids,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    render: list[Any] = [structlog.processors.format_exc_info, hide(secrets(settings))]
    if settings.log_format == "json":
        render.append(structlog.processors.JSONRenderer())
    else:
        render.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "alembic"):
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
    # The engine gives its logger a console of its own where it finds no handler, and so ours has to be there first.
    logging.getLogger("dbos").handlers = [handler]
    logging.getLogger("dbos").propagate = False
    logging.getLogger("uvicorn.access").disabled = True  # we write our own line, with ids
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("dbos").setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _log_last_words
    threading.excepthook = lambda hook: _log_last_words(hook.exc_type, hook.exc_value, hook.exc_traceback)


def secrets(settings: Settings) -> list[str]:
    """What must appear in no record: the bucket's key and the database's password, as written and as meant."""
    password = make_url(settings.url).password or ""
    written = re.search(r"://[^/@]*:([^/@]+)@", settings.url)
    bucket = settings.store_secret_access_key.get_secret_value()
    found = {bucket, str(password), written[1] if written else "", unquote(written[1]) if written else ""}
    return sorted((one for one in found if len(one) >= _SHORTEST_SECRET), key=len, reverse=True)


def hide(words: list[str]) -> Callable[[Any, str, dict[str, Any]], dict[str, Any]]:
    """A processor that takes `words`, API keys, passwords in URLs and Authorization headers out of everything a record holds."""

    def clean(value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, dict):
            return {clean(name): clean(item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [clean(item) for item in value]
        text = value if isinstance(value, str) else repr(value)
        for word in words:
            text = text.replace(word, HIDDEN)
        text = _API_KEY.sub(HIDDEN, text)
        return _AUTHORIZATION.sub(rf"\1{HIDDEN}", _URL_PASSWORD.sub(rf"\1:{HIDDEN}@", text))

    def processor(logger: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
        del logger, method
        return {name: clean(value) for name, value in event.items()}

    return processor


def _add_ids(logger: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
    """Every record says what is done, a library's by the library's name; a trace is told by its id."""
    if found := trace_id(event.pop("traceparent", "")):
        event["trace_id"] = found
    record = event.get("_record")
    event.setdefault("action", getattr(record, "action", record.name.partition(".")[0]) if record else "log")
    return {name: value for name, value in event.items() if value != "" or name not in ("request_id", "job_id")}


def _log_last_words(kind: type[BaseException], error: BaseException | None, trace: Any) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("secateur").critical(
        "unhandled error", exc_info=(kind, error or kind(), trace), extra={"action": "crash"}
    )
