"""Turns every failure, FastAPI's own included, into problem+json."""

from collections.abc import Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError, TimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from app.errors import ApiProblem, problem_response
from app.problems import PROBLEMS
from app.store.blobs import StoreUnavailable
from app.store.disk import is_full
from secateur.schemas import ErrorDetail

log = structlog.get_logger(__name__)

_BY_STATUS = {
    400: "malformed_request",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
    422: "invalid_request",
}
_UNREADABLE_JSON = "json_invalid"


def install(app: FastAPI) -> None:
    """Register the handlers."""
    app.add_exception_handler(ApiProblem, _own)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(OSError, _disk)
    app.add_exception_handler(StoreUnavailable, _bucket)
    for kind in (OperationalError, InterfaceError, TimeoutError):
        app.add_exception_handler(kind, _database)


async def _own(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiProblem)
    return problem_response(error)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code < 400:
        return Response(status_code=error.status_code, headers=error.headers)
    code = _BY_STATUS.get(error.status_code, "internal_error" if error.status_code >= 500 else "malformed_request")
    details = {
        "not_found": f"There is nothing at {request.url.path}.",
        "method_not_allowed": f"{request.url.path} does not take {request.method}.",
    }
    detail = details.get(code, PROBLEMS[code].meaning)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_allowed(request))
    return problem_response(ApiProblem(code, detail, status=error.status_code, headers=headers))


def no_such_method() -> None:
    """A route for methods that a fixed path does not have, and a pattern behind it would take for an id's."""
    raise HTTPException(405)


def _allowed(request: Request) -> list[str]:
    """The methods of the path that the request was for, of all its routes."""
    path = getattr(request.scope.get("route"), "path", None)
    found: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        if route.path == path and route.endpoint is not no_such_method:
            found |= route.methods or set()
    return sorted(found) or ["GET", "HEAD"]  # files of pages and the schema are no routes of ours


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = error.errors()
    if any(fault["type"] == _UNREADABLE_JSON for fault in faults):
        detail = f"The body is not JSON: {faults[0].get('ctx', {}).get('error', faults[0]['msg'])}."
        return problem_response(ApiProblem("malformed_request", detail))
    of_body = any(fault["loc"][0] == "body" for fault in faults)
    if of_body and "application/json" not in request.headers.get("content-type", "application/json"):
        return problem_response(ApiProblem("unsupported_media_type", "Send the body as application/json."))
    return problem_response(invalid_request(faults, error.body))


async def _disk(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OSError)
    if not is_full(error):
        raise error
    log.error("storage full", action="request", error=str(error))
    return problem_response(ApiProblem("storage_full", "The service's disk is full; nothing of this was kept."))


async def _bucket(request: Request, error: Exception) -> JSONResponse:
    log.error("storage unavailable", action="request", error=str(error))
    detail = "The bucket that keeps the files does not answer. Try again in a moment."
    return problem_response(ApiProblem("storage_unavailable", detail, headers={"Retry-After": "5"}))


async def _database(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SQLAlchemyError)
    if is_full(error):
        log.error("storage full", action="request", error=str(error))
        return problem_response(ApiProblem("storage_full", "The database's disk is full; nothing of this was kept."))
    log.error("database unavailable", action="request", error=str(error))
    detail = "The database does not answer. Try again in a moment."
    return problem_response(ApiProblem("database_unavailable", detail, headers={"Retry-After": "5"}))


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody is there to read it


def invalid_request(faults: Sequence[Any], body: Any) -> ApiProblem:
    """A 422 that points at each faulty field, from faults as FastAPI lists them."""
    errors: dict[str, ErrorDetail] = {}
    for fault in faults:
        where = pointer(tuple(fault["loc"]), body)
        # A union reports one fault for each of its members; the first says enough.
        errors.setdefault(where, ErrorDetail(pointer=where, detail=_sentence(fault)))
    first = next(iter(errors.values()))
    detail = f"{first.pointer}: {first.detail}" if first.pointer else first.detail
    return ApiProblem("invalid_request", detail, errors=list(errors.values()))


def pointer(location: tuple[str | int, ...], body: Any) -> str:
    """JSON pointer for a location in `body`; `?name` for one in the query, the bare name for a header or path.

    Members of unions stand in the location too but not in the body, so only what is found there (or missing from an
    object there) becomes part of the pointer.
    """
    place, *rest = location
    if place != "body":
        name = "/".join(map(str, rest))
        return f"?{name}" if place == "query" else name
    found: list[str] = []
    for part in rest:
        if isinstance(body, dict) and isinstance(part, str):
            found.append(part)
            body = body.get(part)
        elif isinstance(body, list) and isinstance(part, int) and part < len(body):
            found.append(str(part))
            body = body[part]
        else:
            break
    text = "".join(f"/{part.replace('~', '~0').replace('/', '~1')}" for part in found)
    return text.encode(errors="replace").decode()  # names of fields may hold what no answer can: halves of a character


def _sentence(fault: Any) -> str:
    message: str = fault["msg"]
    return message.removeprefix("Value error, ")
