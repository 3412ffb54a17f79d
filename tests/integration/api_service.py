"""An app on its real database, queue and files, and a real worker that looks at tiny files."""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fastapi.testclient import TestClient
from httpx2 import Response

from app.main import create_app
from app.migrate import migrate
from app.services import Services
from app.settings import Settings
from app.store.repositories import Datasets, Models
from secateur.schemas import PruneJob

ROOT = Path(__file__).parents[2]
BASE_URL = "http://127.0.0.1:8117"
CLASSES = ["cat", "dog", "elk"]


class Service:
    """An app, its client and, when started, its worker."""

    def __init__(self, home: Path, **settings: Any) -> None:
        values = {
            "home": home,
            "lock_folder": home / "locks",
            "events_poll_s": 0.02,
            "worker_wait_s": 30.0,
            "inspect_timeout_s": 60.0,
            "max_model_bytes": 300_000,
            "max_dataset_bytes": 300_000,
            "worker_heartbeat_s": 0.3,
            "log_level": "WARNING",
            **settings,
        }
        self.settings = Settings(**values)
        self._environment = {f"SECATEUR_{name.upper()}": str(value) for name, value in values.items()}
        migrate(self.settings)
        self.app = create_app(self.settings)
        self.client = TestClient(self.app, base_url=BASE_URL)

    @property
    def environment(self) -> dict[str, str]:
        """What a process of this service needs to know."""
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "integration")])
        return {**os.environ, **self._environment, "PYTHONPATH": path}

    @contextlib.contextmanager
    def worker(self) -> Iterator[None]:
        """A worker process while the block runs."""
        process = subprocess.Popen([sys.executable, "-m", "api_steps"], env=self.environment, cwd=ROOT)
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)

    @property
    def services(self) -> Services:
        """What the app works with."""
        services: Services = self.app.state.services
        return services

    def files(self) -> list[Path]:
        """Every stored file, half-written ones included."""
        return sorted(path for path in self.settings.blobs_folder.rglob("*") if path.is_file())

    def upload_model(self, content: bytes | None = None, **fields: str) -> Response:
        """Post a model."""
        fields = {"name": "net", "arch": "cifar/resnet20"} | fields
        return self.client.post(
            "/v1/models", data=fields, files={"file": ("m", content if content is not None else weights())}
        )

    def upload_dataset(self, content: bytes | None = None, **fields: str) -> Response:
        """Post a dataset."""
        fields = {"name": "pets", "image_size": "32", "mean": "[0.5, 0.5, 0.5]", "std": "[0.2, 0.2, 0.2]"} | fields
        return self.client.post(
            "/v1/datasets", data=fields, files={"file": ("d.zip", content if content is not None else images())}
        )

    def spec(self, **change: Any) -> dict[str, Any]:
        """A job on a model and dataset of its own."""
        ids = {"model_id": self.upload_model().json()["id"], "dataset_id": self.upload_dataset().json()["id"]}
        return {**ids, "classes": ["cat", 1], "budget_ratio": 0.5, **change}

    def submit(self, **change: Any) -> str:
        """Submit a job and return its id."""
        answer = self.client.post("/v1/prune-jobs", json=self.spec(**change))
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> PruneJob:
        """The job as the API shows it."""
        return PruneJob.model_validate(self.client.get(f"/v1/prune-jobs/{job_id}").json())

    def ended(self, job_id: str) -> PruneJob:
        """The job once it has ended."""
        eventually(lambda: self.job(job_id).status.ended)
        return self.job(job_id)


def eventually(ask: Callable[[], bool]) -> None:
    """Wait until `ask` is true."""
    deadline = time.monotonic() + 60
    while not ask():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def weights(num_outputs: int = 3, num_columns: int = 4, name: str = "fc.weight") -> bytes:
    """A safetensors file."""
    num_bytes = 4 * num_outputs * num_columns
    header = {name: {"dtype": "F32", "shape": [num_outputs, num_columns], "data_offsets": [0, num_bytes]}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(num_bytes)


def images(names: list[str] | None = None) -> bytes:
    """A zip with one image of each class."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names or [f"train/{name}/1.png" for name in CLASSES]:
            archive.writestr(name, os.urandom(100))
    return buffer.getvalue()


def check(response: Response, status: int, code: str) -> dict[str, Any]:
    """The problem, which must be this one."""
    body: dict[str, Any] = response.json()
    assert (response.status_code, body["code"]) == (status, code), body
    assert response.headers["content-type"] == "application/problem+json"
    return body


def put_inputs(service: Service | SimpleNamespace, **change: Any) -> dict[str, Any]:
    """A job's body for inputs that are written to the store directly."""
    blobs = service.services.blobs
    model, dataset = blobs.put_bytes(weights()), blobs.put_bytes(images())
    with service.services.database.write() as session:
        facts: dict[str, Any] = {"num_outputs": 3, "input_shape": None, "class_names": None}
        facts |= {key: change.pop(key) for key in tuple(change) if key in facts}
        model_row = Models(session).add(
            name="m", arch="onnx", sha256=model.sha256, size_bytes=model.size_bytes, num_parameters=1, **facts
        )
        dataset_row = Datasets(session).add(
            name="d", sha256=dataset.sha256, size_bytes=dataset.size_bytes, image_size=32, mean=[0.5], std=[0.5],
            classes=CLASSES, num_images={"train": 3}, num_skipped=0, skipped=[],
            class_map=change.pop("class_map", None),
        )  # fmt: skip
        ids = {"model_id": model_row.id, "dataset_id": dataset_row.id}
    return {**ids, "classes": ["cat"], "budget_ms": 1.0, **change}


def parse(text: str) -> list[dict[str, Any]]:
    """The events of a stream; their SSE ids must be their own."""
    events = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "data" in fields:
            events.append(json.loads(fields["data"]))
            assert str(events[-1]["id"]) == fields["id"]
    return events
