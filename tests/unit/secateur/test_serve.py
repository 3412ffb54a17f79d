"""`secateur serve` as a process tree, with stand-ins for the API and the worker that only say that they live."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from secateur.cli import app, serve

ROOT = Path(__file__).parents[3]
API = """
import http.server, json, os, pathlib
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"num_live_workers": len(list(pathlib.Path(".").glob("worker-*")))}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
pathlib.Path("api").write_text(str(os.getpid()))
http.server.HTTPServer((os.environ["SECATEUR_HOST"], int(os.environ["SECATEUR_PORT"])), Handler).serve_forever()
"""
WORKER = """
import os, pathlib, subprocess, sys, time
print("noise of a worker")
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
pathlib.Path("grandchild").write_text(str(grandchild.pid))
pathlib.Path(f"new-{os.getpid()}").write_text(" ".join(sys.argv[1:]))
pathlib.Path(f"new-{os.getpid()}").rename(f"worker-{os.getpid()}")
time.sleep(120)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which `python -m app` and `python -m workers` are the stand-ins."""
    for package, code in (("app", API), ("workers", WORKER)):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / package / "__main__.py").write_text(code)
    return tmp_path


@pytest.fixture
def tree(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A running `secateur serve`; whatever of it outlives the test is ended."""
    command = [sys.executable, "-m", "secateur", "serve", "--port", "0", "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
            for name in ("api", "grandchild"):
                if (folder / name).exists() and is_alive(int((folder / name).read_text())):
                    os.kill(int((folder / name).read_text()), signal.SIGKILL)


def workers(folder: Path) -> list[int]:
    """Process ids of the workers that were ever started, oldest first."""
    return [int(path.name[7:]) for path in sorted(folder.glob("worker-*"), key=lambda path: path.stat().st_ctime_ns)]


def is_alive(pid: int) -> bool:
    """True while a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def eventually(claim: Callable[[], Any], limit_s: float = 30.0) -> Any:
    """Wait until the claim holds and return it."""
    deadline = time.monotonic() + limit_s
    while not (found := claim()):
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.05)
    return found


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux_only
def test_serve_announces_restarts_and_stops_the_whole_tree_and_nothing_else(
    folder: Path, tree: "subprocess.Popen[str]"
) -> None:
    assert tree.stdout is not None
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"]) as bystander:
        try:
            ready = json.loads(tree.stdout.readline())
            assert ready["kind"] == "ready" and ready["url"].startswith("http://127.0.0.1:")
            api, (first,) = int((folder / "api").read_text()), workers(folder)
            assert (folder / f"worker-{first}").read_text() == "--slot 0 --device local"
            orphan = int((folder / "grandchild").read_text())
            os.kill(first, signal.SIGKILL)
            second = eventually(lambda: workers(folder)[1:])[0]
            assert second != first and is_alive(api)
            assert eventually(lambda: not is_alive(orphan)), "what the dead worker left goes before the next begins"
            tree.send_signal(signal.SIGTERM)
            assert tree.wait(30) == 0
            grandchild = int((folder / "grandchild").read_text())
            assert not any(map(is_alive, (api, first, second, grandchild)))
            assert is_alive(bystander.pid)
            assert tree.stdout.read() == "", "what the children print is not ours"
        finally:
            bystander.kill()


@linux_only
def test_children_do_not_outlive_a_killed_root(folder: Path, tree: "subprocess.Popen[str]") -> None:
    assert tree.stdout is not None
    json.loads(tree.stdout.readline())
    children = [int((folder / "api").read_text()), *workers(folder)]
    assert all(map(is_alive, children))
    tree.kill()
    eventually(lambda: not any(map(is_alive, children)))


def test_api_that_does_not_start_is_told(folder: Path) -> None:
    (folder / "app" / "__main__.py").write_text("raise SystemExit('no database')")
    command = [sys.executable, "-m", "secateur", "serve", "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    end = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert end.returncode == 1 and end.stdout == "" and not workers(folder)
    assert "no database" in end.stderr and "the API ended (exit 1) before it was ready" in end.stderr
    assert "Traceback" not in end.stderr


def test_missing_parts_are_named_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "dbos" else name)
    for command in (["serve"], ["worker"]):
        end = CliRunner().invoke(app, command)
        assert end.exit_code == 1
        message = 'the service is not installed here (no dbos); get it with: pip install "secateur[all]"'
        assert end.stderr == f"secateur: {message}\n"


def test_taken_port_is_told_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        end = CliRunner().invoke(app, ["serve", "--port", str(listener.getsockname()[1]), "--workers", "0"])
    assert end.exit_code == 2 and "choose another with --port" in end.stderr
