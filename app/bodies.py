"""Bodies of uploads as they come, from clients that keep speaking."""

import time
from collections.abc import AsyncIterator

from anyio import fail_after
from fastapi import Request
from starlette.requests import ClientDisconnect

from app.store.blobs import CHUNK_BYTES

SILENCE_S = 30.0
"""A connection that sends nothing for this long is broken: what it holds must be free for the next one."""
SLOWEST_BYTES_PER_S = 16 * 1024
"""Who sends less, on average and after a first silence, holds a place and a file without ever coming to an end."""


async def chunks(request: Request) -> AsyncIterator[bytes]:
    """The body in chunks of about a megabyte. Raises ClientDisconnect, and TimeoutError for a silence, after the last."""
    buffer = bytearray()
    stream = request.stream()
    broken: Exception | None = None
    chunk: bytes | None = b""
    patience_until = time.monotonic() + SILENCE_S
    while chunk is not None:
        try:
            with fail_after(max(0.0, min(SILENCE_S, patience_until - time.monotonic()))):
                chunk = await anext(stream, None)
        except (ClientDisconnect, TimeoutError) as error:
            chunk, broken = None, error
        buffer += chunk or b""
        patience_until += len(chunk or b"") / SLOWEST_BYTES_PER_S
        if buffer and (chunk is None or len(buffer) >= CHUNK_BYTES):
            yield bytes(buffer)
            buffer.clear()
    if broken is not None:
        raise broken
