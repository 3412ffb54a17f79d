"""OpenAPI links: which routes take the id of what a route has just made."""

from collections.abc import Iterator
from typing import Any

_ID = "$response.body#/id"
_FURTHER: tuple[tuple[str, str, str, str, dict[str, str]], ...] = (
    ("/v1/luts", "201", "get", "/v1/luts/compare", {"a": _ID, "b": _ID}),
    ("/v1/agents", "200", "post", "/v1/agents/{device_id}/lease", {"device_id": "$response.body#/device"}),
    *(
        ("/v1/agents/{device_id}/lease", "200", method, f"/v1/measurements/{{measurement_id}}/{rest}", parts)
        for method, rest, parts in (
            ("put", "progress", {"measurement_id": _ID}),
            ("post", "result", {"measurement_id": _ID}),
            ("get", "files/{sha256}", {"measurement_id": _ID, "sha256": "$response.body#/files/0"}),
        )
    ),
)
"""What the rule does not find: POST route, its status, and a route that takes these values of its answer."""


def add_links(schema: dict[str, Any]) -> None:
    """Put the links into an OpenAPI schema: from each POST that makes something to every route under its id."""
    paths = schema["paths"]
    for source, status, method, target, parameters in (*_made(paths), *_FURTHER):
        operation_id = paths[target][method]["operationId"]
        answer = paths[source]["post"]["responses"][status]
        answer.setdefault("links", {})[operation_id] = {"operationId": operation_id, "parameters": parameters}


def _made(paths: dict[str, Any]) -> Iterator[tuple[str, str, str, str, dict[str, str]]]:
    for target, operations in paths.items():
        source, brace, rest = target.partition("/{")
        made = paths.get(source, {}).get("post", {}).get("responses", {})
        if not brace:
            continue
        for status in ("201", "202"):
            if status in made:
                for method in operations:
                    yield source, status, method, target, {rest.partition("}")[0]: _ID}
