"""An agent that is told to stop gives its lease back, whatever it is at: a real agent, a small stand-in for the service."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import onnx
import pytest

ROOT = Path(__file__).parents[3]


class Stand:
    """Leases one measurement; never takes a result."""

    def __init__(self) -> None:
        self.network = b""
        self.beats: list[dict[str, Any]] = []
        self.num_results = 0
        self._profile: dict[str, Any] = {}
        self._leased = False
        stand = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self._answer(*stand.post(self.path, self._body()))

            def do_PUT(self) -> None:
                stand.beats.append(json.loads(self._body()))
                self._answer(204, b"")

            def do_GET(self) -> None:
                self._answer(200, stand.network)

            def _body(self) -> bytes:
                return self.rfile.read(int(self.headers["Content-Length"]))

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Answer a registration, a lease or a result."""
        if path.endswith("/result"):
            self.num_results += 1
            return 503, b""
        if path.endswith("/agents"):
            self._profile = json.loads(body)["profiles"][0]
            return 200, json.dumps({"device": "desk", "fingerprint": "f"}).encode()
        if self._leased:
            time.sleep(0.2)
            return 204, b""
        self._leased = True
        task = {
            "id": "msr_1", "kind": "networks", "profile": self._profile, "payload": {"min_seconds": 60.0},
            "files": [hashlib.sha256(self.network).hexdigest()], "begun": None, "lease_s": 60.0,
        }  # fmt: skip
        return 200, json.dumps(task).encode()


@pytest.fixture
def stand() -> Iterator[Stand]:
    """A running stand-in."""
    stand = Stand()
    yield stand
    stand.server.shutdown()
    stand.server.server_close()


def run_agent(stand: Stand, ready: Callable[[str], bool]) -> tuple[int, str]:
    """Start an agent, tell it to stop as soon as it is `ready`, and return how it ended and what it said."""
    url = f"http://127.0.0.1:{stand.server.server_port}"
    command = [sys.executable, "-m", "workers.agent", "--server", url, "--device", "desk", "--runtime", "onnxruntime"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = ""
            for line in process.stdout:
                said += line
                if ready(said):
                    break
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            return process.wait(15), said + process.stdout.read()
        finally:
            process.kill()


def test_an_agent_that_is_stopped_while_it_measures_gives_its_lease_back(stand: Stand) -> None:
    value = onnx.helper.make_tensor_value_info
    shape = [1, 3, 64, 64]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "g",
        [value("x", onnx.TensorProto.FLOAT, shape)], [value("y", onnx.TensorProto.FLOAT, shape)],
    )  # fmt: skip
    opset = [onnx.helper.make_opsetid("", 17)]
    stand.network = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    code, said = run_agent(stand, lambda said: "time 1 networks" in said)
    assert (code, stand.num_results) == (0, 0) and "Stopped." in said
    assert stand.beats[-1]["release"] is True


def test_an_agent_that_is_stopped_while_nobody_takes_its_result_gives_its_lease_back(stand: Stand) -> None:
    stand.network = b"no network"
    code, said = run_agent(stand, lambda said: "The service is away" in said)
    assert code == 0 and stand.num_results >= 1 and "Stopped." in said
    assert stand.beats[-1]["release"] is True
