"""`secateur serve | worker | agent`: the service itself, as processes of this machine, and what measures for it elsewhere."""

import os
import socket
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import httpx
import typer

from secateur.cli.common import SERVER, Json, Server, say, say_json
from secateur.client import DEFAULT_URL, KEY_VARIABLE
from secateur.errors import SecateurError, UsageError
from secateur.supervisor import POLL_S, STOP_S, Child, Supervisor, describe_exit

SERVER_PARTS = ("fastapi", "uvicorn", "sqlalchemy", "alembic", "dbos")
WORKER_PARTS = ("torch", "torchvision", "onnx", "onnxruntime", "ortools")
AGENT_PARTS = ("numpy", "onnx", "onnxruntime")
START_S = 120.0
"""Time the service has to answer; the first start makes the database."""

Device = Annotated[str, typer.Option(help="Device the worker measures on.")]


LEAVE_S = 10.0
"""Time to hand back and close beyond SECATEUR_DRAIN_TIMEOUT_S."""


class StartFailed(SecateurError):
    """The service did not come up."""


def serve(
    host: Annotated[str, typer.Option(envvar="SECATEUR_HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="SECATEUR_PORT", min=0, max=65535, help="Port to listen on; 0 finds a free one.")
    ] = 8117,
    workers: Annotated[int, typer.Option("--workers", "-w", min=0, max=64, help="Worker processes to run here.")] = 1,
    device: Device = "local",
    home: Annotated[
        Path | None,
        typer.Option(envvar="SECATEUR_HOME", help="Folder for the database and the files.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Run the service here: the API and its workers, until Ctrl-C.

    The workers of one machine share its device and take turns on it. A process that crashes is started again.
    """
    require(SERVER_PARTS + (WORKER_PARTS if workers else ()), extra="all" if workers else "server")
    port = _free_port(host, port)
    url = f"http://{_reachable(host)}:{port}"
    env = os.environ | {"SECATEUR_HOST": host, "SECATEUR_PORT": str(port)}
    if home is not None:
        env["SECATEUR_HOME"] = str(home.expanduser().absolute())
    if sys.stderr.isatty():
        env.setdefault("SECATEUR_LOG_FORMAT", "console")
    supervisor = Supervisor(env=env, tell=lambda text: say(f"secateur: {text}"), stop_s=_stop_s(env))
    supervisor.handle_signals()
    try:
        api = supervisor.start("the API", [sys.executable, "-m", "app"])
        _wait_until_ready(supervisor, api, url, num_workers=0)
        # Workers come after the API, which brings the database up to date.
        for slot in range(workers if not supervisor.num_asked else 0):
            command = [sys.executable, "-m", "workers", "--slot", str(slot), "--device", device]
            supervisor.start(f"worker {slot}", command, stage=1)
        _wait_until_ready(supervisor, api, url, num_workers=workers)
        if not supervisor.num_asked:
            _announce(url, json=json)
        supervisor.watch()
    finally:
        supervisor.stop()


def _stop_s(env: Mapping[str, str]) -> float:
    """Return how long a process of the service may take to stop: what it is given to drain, and a little to leave."""
    try:
        return float(env["SECATEUR_DRAIN_TIMEOUT_S"]) + LEAVE_S
    except (KeyError, ValueError):  # a value without sense is for the service to refuse
        return STOP_S


def _announce(url: str, *, json: bool) -> None:
    if json:
        return say_json({"kind": "ready", "url": url, "pid": os.getpid()}, line=True)
    typer.echo(f"Secateur is at {url}")
    elsewhere = "" if url == DEFAULT_URL else f" --server {url}"
    typer.echo(f"Now: secateur prune WEIGHTS --arch ARCH --data IMAGES --classes cat,dog --budget 0.5x{elsewhere}")
    typer.echo("Or open the address in a browser. Ctrl-C stops the service; jobs go on when it is started again.")
    return None


def worker(
    ctx: typer.Context,
    slot: Annotated[int, typer.Option(min=0, help="Which worker of this machine; each runs once.")] = 0,
    device: Device = "local",
) -> None:
    """Run one worker here, beside others that share its database (SECATEUR_DATABASE_URL)."""
    require(SERVER_PARTS + WORKER_PARTS, extra="all")
    command = [sys.executable, "-m", "workers", "--slot", str(slot), "--device", device, *ctx.args]
    os.execv(sys.executable, command)


def agent(
    device: Annotated[str, typer.Option(help="What the service is to call this machine.")],
    key: Annotated[
        str, typer.Option(envvar=KEY_VARIABLE, help="An API key with the scope `agent`.", show_default=False)
    ] = "",
    runtime: Annotated[
        list[str] | None, typer.Option(help="Offer this runtime alone; give it again for more.", show_default=False)
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End after one answer.")] = False,
    server: Server = SERVER,
) -> None:
    """Measure on this machine for a service elsewhere, until Ctrl-C: latency tables, candidates, finished networks.

    Jobs that name the device then run on the service's workers and are measured here. Needs no torch.
    """
    require(AGENT_PARTS, extra="agent")
    command = [sys.executable, "-m", "workers.agent", "--server", server, "--device", device]
    command += [part for name in runtime or () for part in ("--runtime", name)] + ["--once"] * once
    # Not on the command line, which everybody on this machine can read.
    os.execve(sys.executable, command, os.environ | {KEY_VARIABLE: key})


def require(modules: tuple[str, ...], *, extra: str) -> None:
    """Raise `StartFailed`, with what to install, unless the modules are here."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise StartFailed(
            f'the service is not installed here (no {shown}); get it with: pip install "secateur[{extra}]"'
        )


def _reachable(host: str) -> str:
    """Return the name under which this machine reaches a server that listens on `host`."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{name}]" if ":" in name else name


def _free_port(host: str, port: int) -> int:
    """Return `port` if nothing listens there, or one that is free for 0; raises `UsageError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = error.strerror or str(error)
            raise UsageError(
                f"cannot listen on {host}:{port} ({reason.lower()}); choose another with --port"
            ) from error
        return int(probe.getsockname()[1])


def _wait_until_ready(supervisor: Supervisor, api: Child, url: str, *, num_workers: int) -> None:
    """Return when the API is ready and knows so many live workers, or when a signal asks to stop.

    Raises `StartFailed` when the API ends, or when this takes too long.
    """
    deadline = time.monotonic() + START_S
    with httpx.Client(timeout=2.0, trust_env=False) as http:
        while not supervisor.num_asked and _num_live_workers(http, url) < num_workers:
            if not api.alive:
                raise StartFailed(f"the API {describe_exit(api.bury())} before it was ready; the lines above say why")
            if num_workers:
                supervisor.tend()
            if time.monotonic() > deadline:
                what = f"{num_workers} live workers" if num_workers else "an answer"
                raise StartFailed(f"waited {START_S:g} s in vain for {what} at {url}; the lines above may say why")
            time.sleep(2 * POLL_S)


def _num_live_workers(http: httpx.Client, url: str) -> int:
    """Return how many workers the API at `url` knows to be alive; -1 while it is not ready."""
    try:
        answer = http.get(f"{url}/readyz")
        return int(answer.json().get("num_live_workers", 0)) if answer.is_success else -1
    except (httpx.TransportError, ValueError):
        return -1
