"""A service that asks for keys, with two projects, and fresh things of either whenever a request needs one."""

import hashlib
import itertools
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import update

from app.api.agents import fingerprint
from app.auth.keys import issue
from app.main import create_app
from app.migrate import migrate
from app.services import Services
from app.settings import Settings
from app.store.models import ApiKeyRow, AuditRow
from app.store.repositories import (
    Artifacts,
    Audit,
    Datasets,
    Devices,
    Jobs,
    Keys,
    Luts,
    Measurements,
    Models,
    Projects,
    Uploads,
)
from secateur.access_schemas import Scope

BASE_URL = "http://127.0.0.1:8117"
AGENT = "1" * 32
PROFILE = {
    "hardware": "Jetson", "runtime": "onnxruntime", "runtime_version": "1", "threads": 1, "batch": 1, "dtype": "fp32",
    "layout": "nchw",
    "huge_pages": False,
}  # fmt: skip
PARTS = (Scope.READ, Scope.SUBMIT, Scope.DEVICES, Scope.AGENT)
_numbers = itertools.count(1)


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two projects; `mark` is in the names of all its things."""

    project_id: str
    mark: str


class World:
    """The app, its client, its two sides; no worker runs."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        values = {
            "home": folder / "home", "auth": "keys", "worker_wait_s": 0.0, "events_poll_s": 0.01,
            "max_requests_per_minute": 0, "max_uploads_per_hour": 0, "max_refusals_per_minute": 0, **settings,
        }  # fmt: skip
        self.settings = Settings(**values)
        migrate(self.settings)
        self.app = create_app(self.settings)
        self.client = TestClient(self.app, base_url=BASE_URL, follow_redirects=False)

    def fill(self) -> None:
        """Make the two projects and what they share; the client must be open."""
        with self.services.database.write() as session:
            sides = [
                Side(project_id=Projects(session).add(name=mark, limits={}).id, mark=mark)
                for mark in ("tulip-secret", "onion-secret")
            ]
            Devices(session).register("local", name="l", hardware="cpu", runtime="ort", runtime_version="1")
        self.own, self.other = sides

    @property
    def services(self) -> Services:
        """What the app works with."""
        services: Services = self.app.state.services
        return services

    def key(self, side: Side, *scopes: Scope, maker: ApiKeyRow | None = None) -> tuple[ApiKeyRow, str]:
        """A new key of this project."""
        with self.services.database.write() as session:
            return issue(
                session, project_id=side.project_id, name=f"{side.mark} key", scopes=set(scopes), maker=maker,
                derived=maker is not None,
            )  # fmt: skip

    def ended_key(self, side: Side, *, revoked: bool) -> str:
        """A key that may do everything and counts no more."""
        row, text = self.key(side, *Scope)
        with self.services.database.write() as session:
            if revoked:
                Keys(session).revoke(row.id)
            else:
                past = datetime.now(UTC) - timedelta(seconds=1)
                session.execute(update(ApiKeyRow).where(ApiKeyRow.id == row.id).values(expires_at=past))
        return text

    def upload(self, side: Side) -> str:
        """Id of a new upload of which nothing has come."""
        with self.services.database.write() as session:
            return Uploads(session).add(project_id=side.project_id, purpose="model", size_bytes=9, sha256=None).id

    def inputs(self, side: Side) -> dict[str, str]:
        """Ids of a new model and a new dataset."""
        blob = self.services.blobs.put_bytes(side.mark.encode())
        with self.services.database.write() as session:
            model = Models(session).add(
                name=side.mark, arch="onnx", sha256=blob.sha256, size_bytes=blob.size_bytes, num_parameters=1,
                num_outputs=3, input_shape=[3, 32, 32], class_names=None, project_id=side.project_id,
            )  # fmt: skip
            dataset = Datasets(session).add(
                name=side.mark, sha256=blob.sha256, size_bytes=blob.size_bytes, image_size=32, mean=[0.5], std=[0.5],
                classes=["cat"], num_images={"train": 1}, num_skipped=0, skipped=[], class_map=None,
                project_id=side.project_id,
            )  # fmt: skip
            return {"model_id": model.id, "dataset_id": dataset.id}

    def spec(self, side: Side) -> dict[str, Any]:
        """The body of a job on inputs of its own."""
        return {**self.inputs(side), "name": side.mark, "classes": ["cat"], "budget_ms": 1.0, "threads": 1, "batch": 1}

    def job(self, side: Side, *, kind: str = "prune", ended: bool = False) -> str:
        """A new job, queued or failed, with every file a job may leave."""
        spec = self.spec(side)
        if kind == "lut_build":
            spec = {"name": side.mark, "model_id": spec["model_id"], "image_size": 32, "threads": 1, "batch": 1}
        blob = self.services.blobs.put_bytes(f"file of {side.mark}".encode())
        with self.services.database.write() as session:
            row = Jobs(session).add(
                name=side.mark, spec=spec, model_id=spec["model_id"], dataset_id=spec.get("dataset_id"),
                device_id="local", kind=kind, project_id=side.project_id,
            )  # fmt: skip
            job_id = row.id
            for name in ("plan.json", "report.json", "report.html", "model.onnx"):
                Artifacts(session).save(
                    job_id, name, sha256=blob.sha256, size_bytes=blob.size_bytes, media_type="application/json"
                )
            if ended:
                assert Jobs(session).fail(job_id, code="x", detail=side.mark)
        return job_id

    def device(self, side: Side) -> str:
        """A new device with agents of this project; its name is no secret."""
        name = f"board{next(_numbers)}"
        with self.services.database.write() as session:
            Devices(session).enrol(name, [PROFILE], side.project_id)
        return name

    def bare_device(self, side: Side) -> str:
        """A new device without agents."""
        name = f"titan{next(_numbers)}"
        with self.services.database.write() as session:
            Devices(session).add(name, name="t", hardware="h", runtime="r", runtime_version="1")
        return name

    def lut(self, side: Side) -> str:
        """A new table, made by a job of this project, which it predicted well."""
        job_id = self.job(side, ended=True)
        blob = self.services.blobs.put_bytes(b"{}")
        profile = {**PROFILE, "threads": next(_numbers) % 200 + 20}
        with self.services.database.write() as session:
            row = Luts(session).save(
                device_id="local", fingerprint=f"f{next(_numbers)}", profile=profile, blob_sha256=blob.sha256,
                num_entries=1, num_signatures=1, step=8, noise=0.0, seconds=1.0, job_id=job_id,
            )  # fmt: skip
            Luts(session).add_pair(row.id, job_id=job_id, version=1, predicted_ms=1.0, measured_ms=1.0)
        return row.id

    def measurement(self, side: Side) -> str:
        """A new measurement of a job of this project on its own device, leased to `AGENT`."""
        device, job_id = self.device(side), self.job(side)
        with self.services.database.write() as session:
            assert Jobs(session).begin(job_id, "w/0:1")
            job = Jobs(session).get(job_id)
            assert job is not None
            Measurements(session).ask(
                job, "profile", 1, digest="d", device_id=device, kind="step", profile=PROFILE, payload={},
                files=[self.network(side)],
            )  # fmt: skip
            leased = Measurements(session).lease(device, AGENT, 60.0)
            assert leased is not None
            return leased.id

    def network(self, side: Side) -> str:
        """SHA-256 of what agents of this project may download."""
        content = f"network of {side.mark}".encode()
        self.services.blobs.put_bytes(content)
        return hashlib.sha256(content).hexdigest()

    def send(self, key: str | None, method: str, path: str, **more: Any) -> Any:
        """The answer to a request with this key."""
        headers = {"X-Secateur-Agent": AGENT, **({"Authorization": f"Bearer {key}"} if key is not None else {})}
        return self.client.request(method, path, headers=headers | more.pop("headers", {}), **more)


LEASE = {"agent": AGENT, "fingerprint": fingerprint([PROFILE]), "wait_s": 0}


def fresh() -> str:
    """A name that nothing has."""
    return f"fresh{next(_numbers)}"


def text_of(answer: Any) -> str:
    """All that an answer tells."""
    return f"{answer.text}\n{json.dumps(dict(answer.headers))}"


def problem(answer: Any) -> tuple[int, str]:
    """Status and code of a refusal."""
    return answer.status_code, answer.json()["code"]


def trail(world: World, **wanted: Any) -> list[AuditRow]:
    """Rows of the audit trail, newest first."""
    with world.services.database.read() as session:
        return Audit(session).page(wanted=wanted, limit=200).rows
