"""`python -m app`: migrate, then serve the API until told to stop."""

import asyncio
import contextlib
import gc
import math
import signal
import socket
import sys
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from app.auth.keys import make_first
from app.logs import configure_logs
from app.main import create_app
from app.migrate import migrate
from app.settings import Settings

log = structlog.get_logger("app")


class Server(uvicorn.Server):
    """uvicorn's server, which tells open event streams to end when it is told to stop; a second signal ends patience."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app_to_stop = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by signals."""
        if self._app_to_stop.state.stopping.is_set():
            self.force_exit = True
        self._app_to_stop.state.stopping.set()
        super().handle_exit(sig, frame)


def main() -> int:
    """Run the API; returns the exit code."""
    settings = Settings()
    configure_logs(settings)
    if settings.listens_beyond_loopback and not settings.asks_for_keys:
        print(  # noqa: T201
            f"With SECATEUR_AUTH=off everybody is the administrator, so Secateur does not listen on {settings.host}, "
            "which other machines can reach. Leave SECATEUR_AUTH out: then every request needs an API key.",
            file=sys.stderr,
        )
        return 2
    listener = _listen(settings)
    if listener is None:
        return 2
    migrate(settings)
    if settings.asks_for_keys and (key := make_first(settings)):
        # Not through the log, which others keep and read.
        print(f"Secateur made the first administrator's key, and shows it this once: {key}", file=sys.stderr)  # noqa: T201
    app = create_app(settings)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"Secateur listens on http://{shown}:{port}", flush=True)  # noqa: T201
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout_s),
        # Behind a proxy the Host header is still the client's; nothing else a proxy says is trusted.
        proxy_headers=False,
    )
    # What is there now stays: the collector need not look at it again and again, nor after every 700 new objects.
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    # uvicorn raises the signal again once it has stopped, which is no failure.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(Server(config, app).serve(sockets=[listener]))
    return 0


def _listen(settings: Settings) -> socket.socket | None:
    """A listening socket, or None after saying why there is none."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
        listener.set_inheritable(True)
    except OSError as error:
        print(f"Secateur cannot listen on {settings.host}:{settings.port}: {error.strerror}.", file=sys.stderr)  # noqa: T201
        return None
    return listener


if __name__ == "__main__":
    sys.exit(main())
