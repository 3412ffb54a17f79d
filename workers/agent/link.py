"""An agent's line to the service, which may be down for a while."""

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from secateur.agent_schemas import LEASE_WAIT_S, AgentHello, AgentWelcome, LeaseRequest, Measurement

MAX_PAUSE_S = 30.0
TIMEOUT_S = 30.0
BEAT_TIMEOUT_S = 5.0
_TRIES = 3

Tell = Callable[[str], None]


class Refused(Exception):
    """The service answered, and the answer is no."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{detail} ({code})")
        self.code = code


class Link:
    """One agent's requests. Those that must arrive are repeated until they do; what refuses them raises Refused."""

    def __init__(self, url: str, key: str, agent: str, tell: Tell) -> None:
        """`agent` is 32 hex digits, new for every process."""
        headers = {"X-Secateur-Agent": agent, **({"Authorization": f"Bearer {key}"} if key else {})}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S + LEASE_WAIT_S)
        self._agent, self._tell = agent, tell

    def close(self) -> None:
        """Give back every connection."""
        self._http.close()

    def register(self, device: str, profiles: list[Mapping[str, Any]]) -> AgentWelcome:
        """Register the device with its profiles, one a runtime."""
        hello = AgentHello.model_validate({"agent": self._agent, "device": device, "profiles": profiles})
        return AgentWelcome.model_validate(self._until_answered("POST", "/v1/agents", hello.model_dump()).json())

    def lease(self, welcome: AgentWelcome) -> Measurement | None:
        """Wait for something to measure; None when nothing came for half a minute."""
        wanted = LeaseRequest(agent=self._agent, fingerprint=welcome.fingerprint)
        answer = self._until_answered("POST", f"/v1/agents/{welcome.device}/lease", wanted.model_dump())
        return None if answer.status_code == 204 else Measurement.model_validate(answer.json())

    def fetch(self, task: Measurement, sha256: str, path: Path) -> None:
        """Download a network. Raises ValueError when what comes is not it."""
        for _ in range(_TRIES):
            content = self._until_answered("GET", f"/v1/measurements/{task.id}/files/{sha256}", None).content
            if hashlib.sha256(content).hexdigest() == sha256:
                path.write_bytes(content)
                return
        raise ValueError(f"the network {sha256} does not arrive as it was sent")

    def result(self, task: Measurement, values: Mapping[str, Any]) -> None:
        """Deliver a result, however long that takes."""
        self._until_answered("POST", f"/v1/measurements/{task.id}/result", {"agent": self._agent, **values})

    def beat(self, task: Measurement, **values: Any) -> None:
        """Give one sign of life. Raises httpx.TransportError when it does not arrive."""
        body = {"agent": self._agent, **values}
        path = f"/v1/measurements/{task.id}/progress"
        _settle(self._http.request("PUT", path, json=body, timeout=BEAT_TIMEOUT_S))

    def _until_answered(self, method: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
        pause_s, lost = 0.5, False
        while True:
            try:
                answer = _settle(self._http.request(method, path, json=body))
            except httpx.TransportError as error:
                if not lost:
                    self._tell(f"The service is away ({error or type(error).__name__}); trying until it is back.")
                lost = True
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
                continue
            if lost:
                self._tell("The service is back.")
            return answer


def _settle(answer: httpx.Response) -> httpx.Response:
    """Return a good answer. Raises Refused, and httpx.TransportError for what passes: a service that starts or stops."""
    if answer.is_success:
        return answer
    if answer.status_code >= 500 or answer.status_code == 429:
        raise httpx.TransportError(f"it answered {answer.status_code}")
    try:
        problem = answer.json()
        raise Refused(str(problem["code"]), str(problem["detail"]))
    except (ValueError, KeyError, TypeError):
        raise Refused("unexpected_answer", f"{answer.request.url} answered {answer.status_code}") from None
