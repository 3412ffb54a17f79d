"""Stored files as answers: ranges, ETags, and never anything a browser would run in our name."""

import re
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from app.errors import ApiProblem, NotFound, responses
from app.services import Services

_RANGE = re.compile(r"bytes=(?:(?P<first>\d{1,18})-(?P<last>\d{0,18})|-(?P<suffix>\d{1,18}))")

HTML_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; sandbox"
"""A report may look good and do nothing."""


def file_responses(*codes: str, media_types: tuple[str, ...]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for a route that answers with `send_blob`, or with one of these codes."""
    content: dict[str, Any] = {name: {} for name in media_types}
    return {
        **responses("not_found", "range_not_satisfiable", *codes),
        200: {"description": "The file.", "content": content},
        206: {"description": "The part of the file that Range asked for.", "content": content},
        304: {"description": "The file is the one of If-None-Match."},
    }


def send_blob(
    request: Request,
    services: Services,
    sha256: str,
    *,
    media_type: str,
    name: str,
    inline: bool = False,
    redirect: bool = False,
) -> Response:
    """The blob as a download called `name`, or to be looked at when `inline`, to GET or HEAD.

    Its SHA-256 is a strong ETag; a matching If-None-Match gets 304, Range and If-Range are honoured. Where a `redirect`
    will do, a store that signs addresses sends the client there instead (307). Raises 404 and 416.
    """
    etag = f'"{sha256}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache", "Content-Security-Policy": HTML_POLICY}
    given = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if etag in given or given == ["*"]:
        return Response(status_code=304, headers=headers)
    try:
        size_bytes = services.blobs.size_bytes(sha256)
    except FileNotFoundError:
        raise NotFound("file", name) from None
    disposition = _disposition("inline" if inline else "attachment", name)
    headers |= {"Accept-Ranges": "bytes", "Content-Disposition": disposition}
    if request.method == "HEAD":
        return Response(headers=headers | {"Content-Length": str(size_bytes)}, media_type=media_type)
    if redirect and (url := services.blobs.signed_url(sha256, media_type=media_type, disposition=disposition)):
        # Whoever keeps the address could use it for as long as it lives, so nobody on the way may.
        return RedirectResponse(url, headers={"ETag": etag, "Cache-Control": "no-store"})
    found = _asked_range(request, size_bytes, etag)
    start, end = found or (0, size_bytes)
    if found:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size_bytes}"
    headers["Content-Length"] = str(end - start)
    chunks = services.blobs.chunks(sha256, start, end)
    return StreamingResponse(chunks, 206 if found else 200, headers, media_type)


def _asked_range(request: Request, size_bytes: int, etag: str) -> tuple[int, int] | None:
    """First byte and the one after the last; None for the whole file. Raises 416 for a range outside the file.

    Ignored, so that the whole file comes: other units, several ranges, nonsense (RFC 9110, 14.2).
    """
    asked = request.headers.get("range")
    if asked is None or request.headers.get("if-range", etag) != etag:
        return None
    found = _RANGE.fullmatch(asked.replace(" ", ""))
    if found is None or (found["last"] and int(found["last"]) < int(found["first"])):
        return None
    if found["suffix"]:
        start, end = max(0, size_bytes - int(found["suffix"])), size_bytes
    else:
        start = int(found["first"])
        end = min(size_bytes, int(found["last"]) + 1) if found["last"] else size_bytes
    if start >= end:
        headers = {"Content-Range": f"bytes */{size_bytes}"}
        raise ApiProblem("range_not_satisfiable", f"The file has {size_bytes} bytes.", headers=headers)
    return start, end


def _disposition(kind: str, name: str) -> str:
    """A Content-Disposition header (RFC 6266)."""
    plain = re.fullmatch(r"[\w.+ -]+", name, re.ASCII)
    return f'{kind}; filename="{name}"' if plain else f"{kind}; filename*=UTF-8''{quote(name, safe='')}"
