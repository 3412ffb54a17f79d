"""Stored files as answers: ranges, ETags, and never anything a browser would run in our name."""

import os
import re

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from app.errors import ApiProblem, NotFound
from app.services import Services

_RANGE = re.compile(r"bytes=(?:(?P<first>\d{1,18})-(?P<last>\d{0,18})|-(?P<suffix>\d{1,18}))")

HTML_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; sandbox"
"""A report may look good and do nothing."""


def send_blob(
    request: Request, services: Services, sha256: str, *, media_type: str, name: str, inline: bool = False
) -> Response:
    """The blob as a download called `name`, or to be looked at when `inline`.

    Its SHA-256 is a strong ETag; a matching If-None-Match gets 304, Range and If-Range are honoured. Raises 404.
    """
    etag = f'"{sha256}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache", "Content-Security-Policy": HTML_POLICY}
    given = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if etag in given or given == ["*"]:
        return Response(status_code=304, headers=headers)
    path = services.blobs.path(sha256)
    try:
        stat = os.stat(path)  # noqa: PTH116  (what FileResponse takes)
    except FileNotFoundError:
        raise NotFound("file", name) from None
    _settle_range(request, stat.st_size, etag)
    disposition = "inline" if inline else "attachment"
    return FileResponse(
        path,
        headers=headers,
        media_type=media_type,
        filename=name,
        stat_result=stat,
        content_disposition_type=disposition,
    )


def _settle_range(request: Request, size_bytes: int, etag: str) -> None:
    """Raise 416 for a range outside the file; take out of the request a Range that is to be ignored.

    Ignored, so that the whole file comes: other units, several ranges, nonsense (RFC 9110, 14.2).
    """
    asked = request.headers.get("range")
    if asked is None or request.headers.get("if-range", etag) != etag:
        return
    found = _RANGE.fullmatch(asked.replace(" ", ""))
    if found is None or (found["last"] and int(found["last"]) < int(found["first"])):
        request.scope["headers"] = [(name, value) for name, value in request.scope["headers"] if name != b"range"]
        return
    outside = int(found["suffix"]) == 0 or not size_bytes if found["suffix"] else int(found["first"]) >= size_bytes
    if outside:
        headers = {"Content-Range": f"bytes */{size_bytes}"}
        raise ApiProblem("range_not_satisfiable", f"The file has {size_bytes} bytes.", headers=headers)
