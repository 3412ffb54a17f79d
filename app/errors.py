"""Errors of the API, answered as RFC 9457 problem+json (`app.problems` lists them)."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app.problems import PROBLEMS
from secateur.schemas import ErrorDetail, Problem

MEDIA_TYPE = "application/problem+json"


class ApiProblem(HTTPException):
    """Raise it anywhere in a request to answer with a problem.

    starlette.HTTPException   so that FastAPI lets it pass when it is raised while a body is read
     +- ApiProblem            any code of PROBLEMS
         +- NotFound          404 for a resource
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: Sequence[ErrorDetail] = (),
        status: int | None = None,
        title: str | None = None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        """`status` and `title` are only needed for codes that a worker invented; `more` are members of the body."""
        kind = PROBLEMS.get(code, PROBLEMS["upload_refused"])
        super().__init__(status or kind.status, detail, dict(headers or {}))
        self.problem = Problem(
            type=f"/problems/{code}",
            title=title or kind.title,
            status=status or kind.status,
            code=code,
            detail=detail,
            errors=list(errors),
            **more,
        )


class NotFound(ApiProblem):
    """There is no `noun` with this id."""

    def __init__(self, noun: str, key: str) -> None:
        super().__init__("not_found", f"There is no {noun} {key!r}.")


def problem_response(error: ApiProblem) -> JSONResponse:
    """The error as an answer."""
    body: dict[str, Any] = error.problem.model_dump(mode="json")
    return JSONResponse(body, status_code=error.problem.status, media_type=MEDIA_TYPE, headers=error.headers)


_EVERY = ("malformed_request", "host_refused", "invalid_request", "internal_error", "database_unavailable")
_ASKED = ("key_required", "key_refused", "scope_missing", "rate_limited")


def responses(*codes: str, asked: bool = True) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for a route that may answer with these codes, beside those every route may; `asked` for a key."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for code in (*_EVERY, *(_ASKED if asked else ()), *codes):
        status = PROBLEMS[code].status
        entry = by_status.setdefault(
            status, {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}, "description": ""}
        )
        entry["description"] = " or ".join(filter(None, (entry["description"], f"`{code}`")))
    return by_status
