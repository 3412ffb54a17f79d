"""What no address of this service holds: a NUL, which no database keeps. Refused at the door, and described so."""

from typing import Any

from starlette.types import Scope

from secateur.wire import NO_NUL

_FIXED = ("pattern", "enum", "const", "format")
"""Keywords of strings that are narrower than text."""


def has_nul(scope: Scope) -> bool:
    """True when the path or the query of a request holds a NUL."""
    return "\0" in scope["path"] or b"%00" in scope["query_string"]


def describe(schema: dict[str, Any]) -> None:
    """Put the same into an OpenAPI schema: on every free text in a path or a query."""
    for operations in schema["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] in ("path", "query"):
                    _narrow(parameter["schema"])


def _narrow(schema: dict[str, Any]) -> None:
    if schema.get("type") == "string" and not any(word in schema for word in _FIXED):
        schema["pattern"] = NO_NUL
    for part in schema.get("anyOf", ()):
        _narrow(part)
