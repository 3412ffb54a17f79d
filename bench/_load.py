"""Many HTTP clients in one process that take as little of the machine as can be: the service is what is measured."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
_EVENT_ID = re.compile(rb"^id: (\d+)", re.MULTILINE)


class Connection:
    """One kept-alive connection of one client."""

    def __init__(self, url: str, key: str) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname or "", address.port or 80
        self._always = f"Host: {address.netloc}\r\nAuthorization: Bearer {key}\r\n"

    async def __aenter__(self) -> "Connection":
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._writer.close()

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body of the answer."""
        status, head = await self._begin(method, path, {"Content-Type": "application/json"}, body)
        found = _LENGTH.search(head)
        return status, await self._reader.readexactly(int(found[1])) if found else b""

    async def events(self, path: str) -> AsyncIterator[tuple[int, float]]:
        """Ids of server-sent events as they come, each with the moment in seconds since 1970; ends with the stream."""
        status, _ = await self._begin("GET", path, {"Accept": "text/event-stream"})
        if status != 200:
            raise ConnectionError(f"the stream was refused with {status}")
        rest = b""
        while chunk := await self._reader.read(1 << 16):
            came_at = time.time()
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if found := _EVENT_ID.match(line):
                    yield int(found[1]), came_at

    async def _begin(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> tuple[int, bytes]:
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        self._writer.write(f"{method} {path} HTTP/1.1\r\n{self._always}{more}{length}\r\n".encode() + body)
        head = await self._reader.readuntil(b"\r\n\r\n")
        return int(head[9:12]), head
