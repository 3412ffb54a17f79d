"""An agent at work: leases, measures with a sign of life now and then, delivers."""

import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from secateur.agent_schemas import AgentWelcome, Measurement
from workers.agent.link import Link, Refused, Tell
from workers.agent.tasks import measure

BEATS = 4
"""Signs of life within a lease."""


class Lost(Exception):
    """The service does not want the work any more, or gave it to another agent."""


def serve(link: Link, device: str, profiles: list[Mapping[str, Any]], tell: Tell, *, once: bool) -> None:
    """Measure whatever the service asks for, for ever; with `once` until one answer is delivered.

    Raises Refused when the service will not have this agent.
    """
    welcome: AgentWelcome | None = None
    while True:
        try:
            if welcome is None:
                welcome = link.register(device, profiles)
                tell(
                    f"Registered {device}: {', '.join(one['runtime'] for one in profiles)} on {profiles[0]['hardware']}."
                )
            task = link.lease(welcome)
        except Refused as refused:
            # Another database, a deleted device, or another agent's profiles while this one was away.
            if welcome is None or refused.code not in ("not_found", "device_changed"):
                raise
            welcome = None
            continue
        if task is not None and _work(link, task, tell) and once:
            return


def _work(link: Link, task: Measurement, tell: Tell) -> bool:
    """Do one task; return whether its answer was delivered."""
    tell(f"{task.id}: {_described(task)}.")
    with tempfile.TemporaryDirectory(prefix="agent-") as folder, _Beats(link, task) as beats:
        try:
            files = {sha256: Path(folder) / f"{sha256}.onnx" for sha256 in task.files}
            for sha256, path in files.items():
                link.fetch(task, sha256, path)
            values = measure(task, files, beats.say, beats.keep)
        except (Lost, Refused) as lost:
            tell(f"{task.id}: stopped, {lost or 'nobody wants it any more'}.")
            return False
        except Exception as error:  # noqa: BLE001 - whatever a runtime says of a network, the job must hear of it
            values = {"error": f"{type(error).__name__}: {error}"[:2000]}
        # Still within the beats: a service that is away keeps the lease, and an agent that is stopped gives it back.
        return _deliver(link, task, values, tell)


def _deliver(link: Link, task: Measurement, values: Mapping[str, Any], tell: Tell) -> bool:
    try:
        link.result(task, values)
    except Refused as refused:
        tell(f"{task.id}: refused: {refused}.")
        if refused.code == "lease_lost" or "error" in values:
            return False
        return _deliver(link, task, {"error": f"The service refused the result: {refused}"[:2000]}, tell)
    tell(f"{task.id}: {values.get('error', 'delivered')}.")
    return True


class _Beats:
    """Signs of life from a thread of its own while a task runs; when the agent is stopped, gives the task back."""

    def __init__(self, link: Link, task: Measurement) -> None:
        self._link, self._task = link, task
        self._said: dict[str, Any] = {}
        self._table: dict[str, Any] | None = None
        self._lost = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "_Beats":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._over.set()
        self._thread.join()
        if kind is KeyboardInterrupt:
            self._send(release=True)

    def say(self, fraction: float, seconds_left: float | None) -> None:
        """Note how far the task is. Raises Lost when nobody wants it any more."""
        if self._lost:
            raise Lost(self._lost)
        self._said = {"fraction": min(1.0, fraction), "seconds_left": seconds_left}

    def keep(self, table: dict[str, Any]) -> None:
        """Keep what is measured so far with the service, at the next sign of life."""
        self._table = table

    def _beat(self) -> None:
        while not self._over.wait(self._task.lease_s / BEATS):
            self._send()

    def _send(self, **more: Any) -> None:
        table, self._table = self._table, None
        try:
            self._link.beat(self._task, **self._said, **({"table": table} if table else {}), **more)
        except httpx.TransportError:
            self._table = self._table or table  # the next one may arrive
        except Refused as refused:
            self._lost = str(refused)


def _described(task: Measurement) -> str:
    profile = task.profile
    what = {
        "networks": f"time {len(task.files)} networks",
        "step": "find the stair width",
        "table": f"measure {len(task.payload.get('requests', ()))} operators",
    }[task.kind]
    return f"{what} in {profile.runtime}, threads {profile.threads}, batch {profile.batch}"
