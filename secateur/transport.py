"""HTTP with our manners: problem+json becomes exceptions, safe requests are tried again."""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from secateur.errors import ApiError, ConnectionFailed, NotFound, UnexpectedAnswer, UsageError
from secateur.files import ProgressCallback, ProgressFile
from secateur.schemas import Page, Problem

T = TypeVar("T")

RETRY_DELAYS_S = (0.2, 0.6)
"""Pauses before a safe request is tried again; short, because a person is usually waiting."""
INSPECT_TIMEOUT_S = 300.0
"""Uploads and preflights are answered after a worker has looked at them."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Transport:
    """A connection pool to one server. Thread-safe, as httpx's client is."""

    def __init__(self, base_url: str, *, key: str = "", timeout_s: float = 30.0) -> None:
        """`key` goes with every request, where there is one; `timeout_s` bounds the silence on an ordinary request, not its whole duration."""
        self.base_url = base_url.rstrip("/")
        self.timeout_s = timeout_s
        try:
            host = httpx.URL(self.base_url).host
        except httpx.InvalidURL as error:
            raise ConnectionFailed(base_url, str(error)) from error
        # A proxy from the environment is for the world outside; sending loopback traffic through it never works.
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout_s, connect=5.0),
            trust_env=host not in LOOPBACK,
        )

    def close(self) -> None:
        """Close the pooled connections."""
        self._http.close()

    def url(self, path: str) -> str:
        """Return the absolute address of a path such as `/v1/models`."""
        return self.base_url + path

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        model: BaseModel | None = None,
        body: Callable[[], Mapping[str, Any]] = dict,
        safe: bool = False,
        timeout_s: float | None = None,
    ) -> httpx.Response:
        """Return the answer to one request, read whole.

        The body is `model` as JSON, or what `body` makes afresh for each attempt (httpx's `data=` and `files=`).
        `safe` requests are tried again after any network failure, others only when no connection was made at all.

        Raises `ApiError` (or `NotFound`) for a problem, `ConnectionFailed` when no attempt got an answer.
        """
        timeout = httpx.Timeout(timeout_s or self.timeout_s, connect=5.0)
        if model is not None:
            headers = {**(headers or {}), "Content-Type": "application/json"}
            body = partial(dict, content=model.model_dump_json())
        delays_s = iter(RETRY_DELAYS_S)
        while True:
            try:
                response = self._http.request(
                    method, self.url(path), params=_given(params), headers=headers, timeout=timeout, **body()
                )
            except httpx.TransportError as error:
                # A server that is slow is asked once: asking again would only make it slower.
                broken = safe and not isinstance(error, httpx.TimeoutException)
                delay_s = next(delays_s, None) if broken or isinstance(error, httpx.ConnectError) else None
                if delay_s is None:
                    raise self._connection_failed(error) from error
                time.sleep(delay_s)
            else:
                raise_for_problem(response)
                return response

    def get(self, path: str, kind: type[T], *, params: Mapping[str, Any] | None = None) -> T:
        """Return a resource, parsed as `kind`."""
        return self.read(self.request("GET", path, params=params, safe=True), kind)

    def pages(self, path: str, kind: type[Page[T]], params: Mapping[str, Any] | None = None) -> Iterator[T]:
        """Iterate over the items of a list, fetching pages as they are needed."""
        cursor: str | None = None
        while True:
            page = self.get(path, kind, params={**(params or {}), "cursor": cursor})
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def upload(
        self,
        path: str,
        file: Path,
        fields: Mapping[str, Any],
        kind: type[T],
        on_progress: ProgressCallback | None = None,
    ) -> T:
        """Send a file with its fields as multipart form data, in one stream, and return the resource it became.

        Fields that are None are left out; those that are not strings travel as JSON.
        """
        if not file.is_file():
            raise UsageError(f"there is no file {file}")
        data = {key: _form(value) for key, value in fields.items() if value is not None}
        with ProgressFile(file, on_progress) as source:

            def body() -> Mapping[str, Any]:
                source.seek(0)
                return {"data": data, "files": {"file": (file.name, source, "application/octet-stream")}}

            response = self.request("POST", path, body=body, timeout_s=INSPECT_TIMEOUT_S)
        return self.read(response, kind)

    @contextmanager
    def stream(
        self,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        redirected: bool = False,
    ) -> Iterator[httpx.Response]:
        """Open a GET whose body is read piece by piece inside the `with`; network failures there are ours too.

        `redirected`: the service may send us to where the file is.
        """
        timeout = httpx.Timeout(timeout_s or self.timeout_s, connect=5.0)
        try:
            with self._http.stream(
                "GET", self.url(path), headers=headers, timeout=timeout, follow_redirects=redirected
            ) as response:
                if response.is_error:
                    response.read()
                    raise_for_problem(response)
                yield response
        except httpx.TransportError as error:
            raise self._connection_failed(error) from error

    def read(self, response: httpx.Response, kind: type[T]) -> T:
        """Return the body of a good answer as `kind`; raises `UnexpectedAnswer`."""
        return self.parse(response.content, kind, url=str(response.url))

    def parse(self, text: str | bytes, kind: type[T], *, url: str) -> T:
        """Return JSON from `url` as `kind`; raises `UnexpectedAnswer`."""
        try:
            # `extra="ignore"`: a newer service may say more than this client knows.
            return TypeAdapter(kind).validate_json(text, extra="ignore")
        except ValidationError as error:
            first = error.errors()[0]
            where = "/".join(str(part) for part in first["loc"]) or "body"
            raise UnexpectedAnswer(url, f"{where}: {first['msg']}") from error

    def _connection_failed(self, error: httpx.TransportError) -> ConnectionFailed:
        text = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
        reason = "it took too long" if isinstance(error, httpx.TimeoutException) else text
        return ConnectionFailed(self.base_url, reason)


def raise_for_problem(response: httpx.Response) -> None:
    """Raise `ApiError` or `NotFound` unless the answer is a success; `UnexpectedAnswer` for a redirect."""
    if response.is_success:
        return
    if not response.is_error:
        raise UnexpectedAnswer(str(response.url), f"status {response.status_code}")
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:  # a proxy's page, say
        problem = Problem(
            type="about:blank",
            title=response.reason_phrase,
            status=response.status_code,
            code=f"http_{response.status_code}",
            detail=f"{response.url} answered {response.status_code} {response.reason_phrase}",
        )
    raise (NotFound if problem.status == httpx.codes.NOT_FOUND else ApiError)(problem)


def _form(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _given(params: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the query without what was not asked for; httpx would send `status=` for a None."""
    return {key: value for key, value in (params or {}).items() if value is not None}
