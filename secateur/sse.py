"""Server-sent events: the text format of a stream, and a job's history that survives broken lines."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from secateur.errors import ApiError, ConnectionFailed, UnexpectedAnswer, WaitTimeout
from secateur.schemas import JobEvent, JobStatus, Wire
from secateur.transport import Transport
from secateur.wire import CLOSING

SILENCE_S = 45.0
"""A stream silent for this long is dead: the service sends a comment every 15 s."""
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
GATEWAY_ERRORS = (429, 502, 503, 504)
"""Answers that mean "not now": worth another try."""


class _State(Wire):
    """What every kind of job has."""

    status: JobStatus


@dataclass(frozen=True, kw_only=True)
class Message:
    """One event as it was sent."""

    event: str
    data: str
    id: str


def parse(chunks: Iterable[bytes]) -> Iterator[Message | None]:
    """Yield the messages of a stream, and None for each comment line (the heartbeat).

    Lines end in LF, CRLF or CR and in nothing else, so JSON may hold U+2028. A message cut off by the end of the
    stream is dropped. Source: WHATWG HTML, 9.2.6 "Interpreting an event stream".
    """
    event, identifier = "", ""
    data: list[str] = []
    for line in _lines(chunks):
        if not line:
            if data:
                yield Message(event=event or "message", data="\n".join(data), id=identifier)
            event, data = "", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "":
                yield None
            case "event":
                event = value
            case "data":
                data.append(value)
            case "id":
                identifier = value


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Yield whole lines of a byte stream without their ends; what follows the last end is not a line."""
    rest = b""
    for chunk in chunks:
        rest += chunk
        # A CR at the very end may be half of a CRLF: it waits for the next chunk.
        held = b"\r" if rest.endswith(b"\r") else b""
        whole = rest.removesuffix(held) if held else rest
        *lines, rest = whole.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        rest += held
        for line in lines:
            yield line.decode("utf-8", errors="replace")


def follow(
    transport: Transport,
    job_id: str,
    *,
    after: int,
    patience_s: float,
    timeout_s: float | None,
    root: str = "/v1/prune-jobs",
) -> Iterator[JobEvent]:
    """Yield the events of a job below `root` with an id above `after`, each once and in order, until the job has ended.

    A stream that breaks is opened again where it stopped (`Last-Event-ID`), with growing pauses.

    Raises `ConnectionFailed` after `patience_s` seconds without a sign of life, `WaitTimeout` after `timeout_s`.
    """
    path = f"{root}/{job_id}"
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    last = after
    alive_at = time.monotonic()
    pause_s = FIRST_PAUSE_S
    newest: JobEvent | None = None
    while True:
        opened_at = last
        try:
            for event in _stream(transport, path, last, deadline):
                alive_at, pause_s = time.monotonic(), FIRST_PAUSE_S
                if event is not None and event.id > last:
                    last, newest = event.id, event
                    yield event
                elif event is None and newest and _says_ended(newest) and _has_ended(transport, path):
                    return
                _check(deadline, job_id, timeout_s)
            if (last == opened_at or (newest and _says_ended(newest))) and _has_ended(transport, path):
                return
        except (ConnectionFailed, ApiError) as error:
            _check(deadline, job_id, timeout_s)
            if isinstance(error, ApiError) and error.status not in GATEWAY_ERRORS:
                raise
            if time.monotonic() - alive_at > patience_s:
                raise
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _stream(transport: Transport, path: str, after: int, deadline: float | None) -> Iterator[JobEvent | None]:
    """Yield what one connection brings: events, and None for each heartbeat."""
    silence_s = SILENCE_S if deadline is None else max(0.05, min(SILENCE_S, deadline - time.monotonic()))
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store", "Last-Event-ID": str(after)}
    with transport.stream(f"{path}/events", headers=headers, timeout_s=silence_s) as response:
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise UnexpectedAnswer(str(response.url), "its events are not a text/event-stream")
        for message in parse(response.iter_bytes()):
            if message is not None and message.event == CLOSING:
                return
            yield None if message is None else transport.parse(message.data, JobEvent, url=str(response.url))


def _says_ended(event: JobEvent) -> bool:
    """Return whether the event reports an ended job. A retried job has such events in the middle, too."""
    return event.kind == "status" and event.data.get("status") in {str(status) for status in JobStatus if status.ended}


def _has_ended(transport: Transport, path: str) -> bool:
    return transport.get(path, _State).status.ended


def _check(deadline: float | None, job_id: str, timeout_s: float | None) -> None:
    if deadline is not None and timeout_s is not None and time.monotonic() >= deadline:
        raise WaitTimeout(job_id, timeout_s)
