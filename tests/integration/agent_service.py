"""A real service with a real worker and real agents, each a process that tests start, kill and start again."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from secateur import Client

ROOT = Path(__file__).parents[2]
DEVICE = "jetson"
PATIENCE_S = 60.0


class Service:
    """An API on a port of its own and one worker; `close` ends everything."""

    def __init__(self, folder: Path, address: str = "127.0.0.1", **settings: object) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind((address, 0))
            self._port = probe.getsockname()[1]
        self.url = f"http://{address}:{self._port}"
        values = {
            "home": folder / "home", "host": address, "lock_folder": folder / "locks", "port": self._port, "auth": "keys",
            "agent_lease_s": 2.0, "events_poll_s": 0.05, "measure_s": 0.3, "log_level": "WARNING",
            **settings,
        }  # fmt: skip
        named = {f"SECATEUR_{name.upper()}": str(value) for name, value in values.items()}
        self._env = {**os.environ, **named, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._running: list[subprocess.Popen[bytes]] = []
        self._agents: list[subprocess.Popen[bytes]] = []
        self.key = subprocess.run(
            [sys.executable, "-m", "app.auth"], env=self._env, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        self.api = self.start_api()
        self.worker = self._start("-m", "workers", "--slot", "0", "--device", "local")
        self.client = Client(self.url, key=self.key)
        self.agent_key = self.client.create_key("agents", scopes=["agent"]).key
        eventually(lambda: httpx.get(f"{self.url}/readyz").json()["num_live_workers"] == 1, "a worker")

    def close(self) -> None:
        """End all processes."""
        self.client.close()
        self.end_agents()
        for process in self._running:
            if process.poll() is None:
                process.terminate()
        for process in self._running:
            process.wait(30)

    def start_api(self) -> "subprocess.Popen[bytes]":
        """Start the API on its port and wait until it answers."""
        self.api = self._start("-m", "app")
        eventually(lambda: httpx.get(f"{self.url}/readyz").is_success, "the API")
        return self.api

    def kill_api(self) -> None:
        """Cut everybody off."""
        self.api.kill()
        self.api.wait()

    def start_agent(
        self, *options: str, key: str = "", log: str = "agent.log", host: Sequence[str] = ()
    ) -> "subprocess.Popen[bytes]":
        """Start an agent as its user does; `host` is the beginning of a command that becomes the agent, somewhere else."""
        command = [
            *host, sys.executable, "-m", "secateur", "agent", "--server", self.url, "--device", DEVICE, "--key", key or self.agent_key,
            "--runtime", "onnxruntime", *options,
        ]  # fmt: skip
        env = {name: value for name, value in self._env.items() if not name.startswith("SECATEUR_")}
        with (self._folder / log).open("a") as out:
            process = subprocess.Popen(command, env=env, stdout=out, stderr=out)
        self._agents.append(process)
        return process

    def end_agents(self) -> None:
        """End agents that a test left running."""
        for process in self._agents:
            if process.poll() is None:
                process.kill()
            process.wait(30)
        self._agents.clear()

    def said(self, log: str = "agent.log") -> str:
        """What the agents said."""
        return (self._folder / log).read_text()

    def history(self, job_id: str, builds: bool = False) -> list[dict[str, Any]]:
        """The job's events so far."""
        path = "lut-builds" if builds else "prune-jobs"
        url = f"{self.url}/v1/{path}/{job_id}/events?after=0&limit=200"
        items: list[dict[str, Any]] = httpx.get(url, headers={"Authorization": f"Bearer {self.key}"}).json()["items"]
        return items

    def texts(self, job_id: str, builds: bool = False) -> str:
        """All lines of the job's history."""
        return "\n".join(str(event["data"].get("text", "")) for event in self.history(job_id, builds))

    def _start(self, *command: str) -> "subprocess.Popen[bytes]":
        with (self._folder / "service.log").open("a") as log:
            process = subprocess.Popen([sys.executable, *command], env=self._env, cwd=ROOT, stdout=log, stderr=log)
        self._running.append(process)
        return process


def eventually(ask: Callable[[], Any], what: str) -> None:
    """Wait until `ask` is true; a service that is away is not."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            if ask():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"waited in vain for {what}")


def stop(process: "subprocess.Popen[bytes]") -> int:
    """Press Ctrl-C and return the exit code."""
    process.send_signal(signal.SIGINT)
    return process.wait(30)
