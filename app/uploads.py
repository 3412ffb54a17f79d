"""Multipart uploads, streamed to a blob: nothing is kept in memory, nothing is left behind when it ends badly."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from anyio import CancelScope
from fastapi import Request
from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool

from app.auth.access import Access
from app.auth.limits import check_bytes
from app.errors import ApiProblem
from app.handlers import invalid_request
from app.services import Services
from app.sniff import HEAD_BYTES
from app.store.blobs import Blob, BlobWriter
from app.store.repositories import Holds
from secateur.schemas import ErrorDetail

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

F = TypeVar("F", bound=BaseModel)

_BUFFER_BYTES = 1024 * 1024
_MAX_FIELDS = 16
_FILE = "file"


@dataclass(frozen=True, kw_only=True)
class Upload(Generic[F]):
    """A received file, held against deletion, and the fields that came with it."""

    form: F
    blob: Blob
    head: bytes


@dataclass(kw_only=True)
class _Parts:
    """Takes the parser's callbacks: fields into memory, the file into the writer."""

    writer: BlobWriter
    check_head: Callable[[bytes], None]
    max_file_bytes: int
    max_field_bytes: int
    fields: dict[str, str] = field(default_factory=dict)
    head: bytes = b""
    num_files: int = 0
    complete: bool = False
    _name: str = ""
    _value: bytearray = field(default_factory=bytearray)
    _header: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    _num_field_bytes: int = 0

    def on_part_begin(self) -> None:
        self._name = ""
        self._value = bytearray()

    def on_header_begin(self) -> None:
        self._header = (bytearray(), bytearray())

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def on_header_end(self) -> None:
        name, value = self._header
        if bytes(name).lower() == b"content-disposition":
            _, options = parse_options_header(bytes(value))
            self._name = options.get(b"name", b"").decode("utf-8", "replace")

    def on_headers_finished(self) -> None:
        if self._name == _FILE:
            self.num_files += 1
            if self.num_files > 1:
                raise _field_fault(_FILE, "Send one file.")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        chunk = data[start:end]
        if self._name != _FILE:
            self._num_field_bytes += len(chunk)
            if self._num_field_bytes > self.max_field_bytes:
                raise ApiProblem("body_too_large", f"The fields may have {self.max_field_bytes} bytes at most.")
            self._value.extend(chunk)
            return
        if self.writer.size_bytes + len(chunk) > self.max_file_bytes:
            raise _too_large(self.max_file_bytes)
        if len(self.head) < HEAD_BYTES:
            self.head += chunk[: HEAD_BYTES - len(self.head)]
            if len(self.head) == HEAD_BYTES:
                self.check_head(self.head)
        self.writer.write(chunk)

    def on_part_end(self) -> None:
        if self._name == _FILE:
            self.check_head(self.head)
            return
        if self._name in self.fields or len(self.fields) >= _MAX_FIELDS:
            raise _field_fault(self._name, "Send each field once, and no more than there are.")
        self.fields[self._name] = self._value.decode("utf-8", "replace")

    def on_end(self) -> None:
        self.complete = True


@asynccontextmanager
async def received(
    request: Request,
    services: Services,
    form_type: type[F],
    *,
    max_bytes: int,
    check_head: Callable[[bytes], None],
) -> AsyncIterator[Upload[F]]:
    """Receive the upload; the blob is held inside the `with` and deleted after it unless a row refers to it by then.

    Raises ApiProblem: 413 by the bytes that really came, 415 from `check_head` as soon as the file's first bytes are
    there, 422 for missing or wrong fields. Values of fields are JSON where the form's type is not a string.
    """
    _check_announced(request, max_bytes + services.settings.max_body_bytes, max_bytes)
    blobs = services.blobs
    with blobs.writer() as writer:
        parts = _Parts(
            writer=writer,
            check_head=check_head,
            max_file_bytes=max_bytes,
            max_field_bytes=services.settings.max_body_bytes,
        )
        await _feed(request, parts)
        form = _form(form_type, parts)
        # Held before it gets its name: a deletion of the same content by another request then leaves it alone.
        hold_id = await run_in_threadpool(_hold, services, writer.sha256)
        try:
            blob = await run_in_threadpool(writer.commit)
            yield Upload(form=form, blob=blob, head=parts.head)
        finally:
            with CancelScope(shield=True):  # a request that is cut off must let go of its file, too
                await run_in_threadpool(_release, services, hold_id, writer.sha256)


def check_room(services: Services, who: Access, request: Request) -> None:
    """Raise ApiProblem (403) where the announced body would not fit into the project: better now than when it is all here."""
    announced = request.headers.get("content-length", "")
    # The fields, which are not stored, are part of the body.
    file_bytes = int(announced) - services.settings.max_body_bytes if announced.isdecimal() else 0
    with services.database.read() as session:
        check_bytes(session, services.settings, who.project_id, max(0, file_bytes), lock=False)


async def _feed(request: Request, parts: _Parts) -> None:
    parser = MultipartParser(_boundary(request), _callbacks(parts))
    buffer = bytearray()
    with _readable():
        async for chunk in request.stream():
            buffer.extend(chunk)
            if len(buffer) >= _BUFFER_BYTES:
                await run_in_threadpool(parser.write, bytes(buffer))
                buffer.clear()
        await run_in_threadpool(parser.write, bytes(buffer))
        parser.finalize()
    if not parts.complete:
        raise ApiProblem("malformed_request", "The multipart body is cut off.")
    if not parts.num_files:
        raise _field_fault(_FILE, "Send the file as the part `file`.")


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except FormParserError as error:
        raise ApiProblem("malformed_request", f"The multipart body cannot be read: {error}.") from error


def _callbacks(parts: _Parts) -> "MultipartCallbacks":
    return {
        "on_part_begin": parts.on_part_begin,
        "on_part_data": parts.on_part_data,
        "on_part_end": parts.on_part_end,
        "on_header_begin": parts.on_header_begin,
        "on_header_field": parts.on_header_field,
        "on_header_value": parts.on_header_value,
        "on_header_end": parts.on_header_end,
        "on_headers_finished": parts.on_headers_finished,
        "on_end": parts.on_end,
    }


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise ApiProblem("unsupported_media_type", "Send the upload as multipart/form-data with a part `file`.")
    return options[b"boundary"]


def _check_announced(request: Request, max_body_bytes: int, max_file_bytes: int) -> None:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_body_bytes:
        raise _too_large(max_file_bytes)


def _form(form_type: type[F], parts: _Parts) -> F:
    values: dict[str, object] = {}
    for name, text in parts.fields.items():
        described = form_type.model_fields.get(name)
        values[name] = text if described is None or described.annotation is str else _json_or_text(text)
    try:
        return form_type.model_validate(values)
    except ValidationError as error:
        faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()]
        raise invalid_request(faults, values) from error


def _json_or_text(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _hold(services: Services, sha256: str) -> str:
    with services.database.write() as session:
        return Holds(session).add(sha256)


def _release(services: Services, hold_id: str, sha256: str) -> None:
    with services.database.write() as session:
        Holds(session).release(hold_id)
        services.drop_blob(session, sha256)


def _too_large(max_bytes: int) -> ApiProblem:
    return ApiProblem(
        "body_too_large", f"The file may have {max_bytes} bytes at most.", headers={"Connection": "close"}
    )


def _field_fault(name: str, detail: str) -> ApiProblem:
    return ApiProblem("invalid_request", f"{name}: {detail}", errors=[ErrorDetail(pointer=f"/{name}", detail=detail)])
