"""Uploads, streamed to a blob: nothing is kept in memory, nothing is left behind when it ends badly.

A file comes as a part of a multipart body, or has come before in several pieces (`app/pieces.py`) and is named.
"""

import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from anyio import CancelScope
from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool

from app import pieces
from app.auth.access import Access
from app.auth.limits import check_bytes
from app.errors import ApiProblem, NotFound
from app.handlers import invalid_request
from app.multipart import FILE, Parts, feed, field_fault, too_large
from app.problems import PROBLEMS
from app.services import Services
from app.store.blobs import Blob
from app.store.repositories import Holds
from secateur.upload_schemas import Purpose

F = TypeVar("F", bound=BaseModel)

_NAME = "upload_id"


@dataclass(frozen=True, kw_only=True)
class Upload(Generic[F]):
    """A received file, held against deletion, and the fields that came with it."""

    form: F
    blob: Blob
    head: bytes


def upload_body(form: type[BaseModel], file: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """The request body for OpenAPI: `file` with its `fields` as a multipart form, or an upload's id with them as JSON."""
    schema = form.model_json_schema()
    upload_id = {"type": "string", "description": "A complete upload of POST /v1/uploads, instead of the file."}
    parts: dict[str, Any] = {name: {"type": "string", "description": text} for name, text in fields.items()}
    multipart = {
        "type": "object",
        "required": schema["required"],
        "properties": {FILE: {"type": "string", "format": "binary", "description": file}, _NAME: upload_id, **parts},
    }
    named = {
        **schema,
        "required": [_NAME, *schema["required"]],
        "properties": {_NAME: upload_id, **schema["properties"]},
    }
    content = {"multipart/form-data": {"schema": multipart}, "application/json": {"schema": named}}
    return {"requestBody": {"required": True, "content": content}}


@asynccontextmanager
async def received(
    request: Request,
    services: Services,
    who: Access,
    form_type: type[F],
    *,
    max_bytes: int,
    check_head: Callable[[bytes], None],
    purpose: Purpose | None = None,
) -> AsyncIterator[Upload[F]]:
    """Receive the upload; the blob is held inside the `with` and deleted after it unless a row refers to it by then.

    With a `purpose`, `upload_id` may take the place of the file, in the form or in a JSON body. Raises ApiProblem: 413 by
    the bytes that really came, 415 from `check_head` as soon as the file's first bytes are there, 422 for missing or
    wrong fields. Values of fields are JSON where the form's type is not a string.
    """
    _check_announced(request, max_bytes + services.settings.max_body_bytes, max_bytes)
    if purpose and request.headers.get("content-type", "").partition(";")[0].strip() == "application/json":
        values = await _json_object(request, services.settings.max_body_bytes)
        upload_id = values.pop(_NAME, None)
        form = _validated(form_type, values)
        async with _named(services, who, form, upload_id, purpose) as upload:
            yield upload
        return
    with services.blobs.writer() as writer:
        parts = Parts(
            writer=writer,
            check_head=check_head,
            max_file_bytes=max_bytes,
            max_field_bytes=services.settings.max_body_bytes,
        )
        await feed(request, parts)
        if purpose and _NAME in parts.fields and not parts.num_files:
            upload_id = parts.fields.pop(_NAME)
            async with _named(services, who, _form(form_type, parts), upload_id, purpose) as upload:
                yield upload
            return
        if not parts.num_files:
            raise field_fault(FILE, "Send the file as the part `file`.")
        form = _form(form_type, parts)
        async with _held(services, writer.sha256):
            blob = await run_in_threadpool(writer.commit)
            yield Upload(form=form, blob=blob, head=parts.head)


def check_room(services: Services, who: Access, request: Request) -> None:
    """Raise ApiProblem (403) where the announced body would not fit into the project: better now than when it is all here."""
    announced = request.headers.get("content-length", "")
    # The fields, which are not stored, are part of the body.
    file_bytes = int(announced) - services.settings.max_body_bytes if announced.isdecimal() else 0
    with services.database.read() as session:
        check_bytes(session, services.settings, who.project_id, max(0, file_bytes), lock=False)


@asynccontextmanager
async def _named(
    services: Services, who: Access, form: F, upload_id: object, purpose: Purpose
) -> AsyncIterator[Upload[F]]:
    """The file of a complete upload; the upload goes when the file was taken, and when it was refused for what it is."""
    if not isinstance(upload_id, str) or not upload_id.isascii() or "\0" in upload_id:
        raise field_fault(_NAME, "Name a complete upload, or send the part `file`.")
    taken = pieces.taken(services, who.sees, upload_id)
    try:
        spooled = await run_in_threadpool(taken.__enter__)
    except NotFound:
        raise ApiProblem("unknown_upload", f"There is no upload {upload_id!r}.") from None
    try:
        sha256 = await run_in_threadpool(_checked, spooled, purpose)
        async with _held(services, sha256):
            await run_in_threadpool(services.blobs.put_spooled, spooled.path, sha256)
            yield Upload(form=form, blob=Blob(sha256=sha256, size_bytes=spooled.row.size_bytes), head=spooled.head())
        await run_in_threadpool(pieces.forget, services, upload_id)
    except ApiProblem as error:
        # A wrong field or a missing worker does not cost the transfer; what is wrong with the file itself does.
        code = error.problem.code
        if code not in PROBLEMS or error.problem.status == 415 or code == "checksum_mismatch":
            await run_in_threadpool(pieces.forget, services, upload_id)
        raise
    finally:
        taken.__exit__(None, None, None)


def _checked(spooled: pieces.Spooled, purpose: Purpose) -> str:
    """SHA-256 of the upload's file. Raises ApiProblem unless it is complete and what it was announced to be."""
    row = spooled.row
    if row.purpose != purpose:
        raise ApiProblem("unknown_upload", f"The upload {row.id!r} is a {row.purpose}.")
    if spooled.offset != row.size_bytes:
        detail = f"{spooled.offset} of the upload's {row.size_bytes} bytes are there."
        raise ApiProblem("upload_incomplete", detail)
    pieces.CHECK_HEAD[purpose](spooled.head())
    with spooled.path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if row.sha256 not in (None, sha256):
        raise ApiProblem("checksum_mismatch", f"The file's SHA-256 is {sha256}, announced was {row.sha256}.")
    return sha256


@asynccontextmanager
async def _held(services: Services, sha256: str) -> AsyncIterator[None]:
    # Held before it gets its name: a deletion of the same content by another request then leaves it alone.
    hold_id = await run_in_threadpool(_hold, services, sha256)
    try:
        yield
    finally:
        with CancelScope(shield=True):  # a request that is cut off must let go of its file, too
            await run_in_threadpool(_release, services, hold_id, sha256)


async def _json_object(request: Request, max_bytes: int) -> dict[str, object]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise ApiProblem("body_too_large", f"The body may have {max_bytes} bytes at most.")
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiProblem("malformed_request", f"The body is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise ApiProblem("invalid_request", "Send a JSON object.")
    return values


def _check_announced(request: Request, max_body_bytes: int, max_file_bytes: int) -> None:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_body_bytes:
        raise too_large(max_file_bytes)


def _form(form_type: type[F], parts: Parts) -> F:
    values: dict[str, object] = {}
    for name, text in parts.fields.items():
        described = form_type.model_fields.get(name)
        values[name] = text if described is None or described.annotation is str else _json_or_text(text)
    return _validated(form_type, values)


def _validated(form_type: type[F], values: dict[str, object]) -> F:
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
    services.drop_blobs([sha256])
