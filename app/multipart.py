"""A multipart body, parsed as it comes: fields into memory, the file into a blob's writer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app.bodies import chunks
from app.errors import ApiProblem
from app.sniff import HEAD_BYTES
from app.store.blobs import BlobWriter
from secateur.schemas import ErrorDetail

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_FIELDS = 16
FILE = "file"


@dataclass(kw_only=True)
class Parts:
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
        if self._name == FILE:
            self.num_files += 1
            if self.num_files > 1:
                raise field_fault(FILE, "Send one file.")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        chunk = data[start:end]
        if self._name != FILE:
            self._num_field_bytes += len(chunk)
            if self._num_field_bytes > self.max_field_bytes:
                raise ApiProblem("body_too_large", f"The fields may have {self.max_field_bytes} bytes at most.")
            self._value.extend(chunk)
            return
        if self.writer.size_bytes + len(chunk) > self.max_file_bytes:
            raise too_large(self.max_file_bytes)
        if len(self.head) < HEAD_BYTES:
            self.head += chunk[: HEAD_BYTES - len(self.head)]
            if len(self.head) == HEAD_BYTES:
                self.check_head(self.head)
        self.writer.write(chunk)

    def on_part_end(self) -> None:
        if self._name == FILE:
            self.check_head(self.head)
            return
        if self._name in self.fields or len(self.fields) >= _MAX_FIELDS:
            raise field_fault(self._name, "Send each field once, and no more than there are.")
        self.fields[self._name] = self._value.decode("utf-8", "replace")

    def on_end(self) -> None:
        self.complete = True


async def feed(request: Request, parts: Parts) -> None:
    """Parse the request's body. Raises ApiProblem."""
    parser = MultipartParser(_boundary(request), _callbacks(parts))
    num_bytes, most = 0, parts.max_file_bytes + parts.max_field_bytes
    with _readable():
        async for chunk in chunks(request):
            num_bytes += len(chunk)
            # Also of what is neither file nor field: headers, and whatever stands around the parts.
            if num_bytes > most:
                raise too_large(parts.max_file_bytes)
            await run_in_threadpool(parser.write, chunk)
        parser.finalize()
    if not parts.complete:
        raise ApiProblem("malformed_request", "The multipart body is cut off.")


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise ClientDisconnect from None
    except FormParserError as error:
        raise ApiProblem("malformed_request", f"The multipart body cannot be read: {error}.") from error


def _callbacks(parts: Parts) -> "MultipartCallbacks":
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


def too_large(max_bytes: int) -> ApiProblem:
    """413 for a file; the connection ends, so that the rest of it need not be read."""
    return ApiProblem(
        "body_too_large", f"The file may have {max_bytes} bytes at most.", headers={"Connection": "close"}
    )


def field_fault(name: str, detail: str) -> ApiProblem:
    """422 for a field of the form."""
    return ApiProblem("invalid_request", f"{name}: {detail}", errors=[ErrorDetail(pointer=f"/{name}", detail=detail)])
