"""Big files over lines that break: the client goes on, whatever happens to the service, and what came is used or goes."""

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from secateur import Client, uploads
from secateur.errors import ApiError, ConnectionFailed
from secateur.schemas import Problem
from secateur.upload_schemas import PIECE
from tests.integration.api_service import ROOT, Service, check, images, weights

FIELDS = {"name": "net", "arch": "cifar/resnet20"}


def upload(service: Service, content: bytes, purpose: str = "model", **more: str) -> str:
    answer = service.client.post("/v1/uploads", json={"purpose": purpose, "size_bytes": len(content), **more})
    assert answer.status_code == 201, answer.text
    url = answer.headers["location"]
    headers = {"Upload-Offset": "0", "Content-Type": PIECE}
    assert service.client.patch(url, content=content, headers=headers).status_code == 204
    return str(answer.json()["id"])


def name(service: Service, upload_id: str, **fields: str) -> httpx.Response:
    return service.client.post("/v1/models", json={"upload_id": upload_id, **FIELDS, **fields})  # type: ignore[return-value]


def test_a_complete_upload_becomes_a_model_or_a_dataset_and_goes(service: Service) -> None:
    before, content = service.files(), weights(num_columns=11)
    answer = name(service, upload(service, content))
    assert answer.status_code == 201 and answer.json()["sha256"] == hashlib.sha256(content).hexdigest()
    form = {"upload_id": upload(service, content), **FIELDS, "class_names": '["a", "b", "c"]'}
    second = service.client.post("/v1/models", files={key: (None, value) for key, value in form.items()})
    assert second.status_code == 201, second.text
    body = {"name": "pets", "image_size": 32, "mean": [0.5] * 3, "std": [0.2] * 3}
    dataset = service.client.post("/v1/datasets", json={"upload_id": upload(service, images(), "dataset"), **body})
    assert dataset.status_code == 201, dataset.text
    service.client.delete(f"/v1/models/{answer.json()['id']}")
    service.client.delete(f"/v1/datasets/{dataset.json()['id']}")
    service.client.delete(f"/v1/models/{second.json()['id']}")
    assert service.files() == before


def test_an_upload_that_cannot_be_used_says_why(service: Service) -> None:
    before, content = service.files(), weights(num_columns=12)
    check(name(service, "upl_none"), 422, "unknown_upload")
    check(service.client.post("/v1/models", json=FIELDS), 422, "invalid_request")
    check(service.client.post("/v1/models", json={"upload_id": 5, **FIELDS}), 422, "invalid_request")
    check(name(service, upload(service, images(), "dataset")), 422, "unknown_upload")
    begun = service.client.post("/v1/uploads", json={"purpose": "model", "size_bytes": 100}).json()["id"]
    check(name(service, begun), 409, "upload_incomplete")
    kept = upload(service, content)
    check(name(service, kept, arch="resnet"), 422, "unknown_arch")
    check(name(service, kept, colour="green"), 422, "invalid_request")
    assert name(service, kept).status_code == 201, "a wrong field does not cost the transfer"
    wrong = upload(service, weights(name="other"))
    check(name(service, wrong), 422, "wrong_weights")
    check(name(service, wrong), 422, "unknown_upload")
    check(name(service, upload(service, content, sha256="0" * 64)), 422, "checksum_mismatch")
    assert not [path for path in service.files() if path.parent.name == "tmp"]
    assert len(service.files()) == len(before) + 1 + 2, "the model, the upload for another purpose, the one begun"


@contextlib.contextmanager
def api(service: Service, port: int) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**service.environment, "SECATEUR_PORT": str(port)}
    process = subprocess.Popen([sys.executable, "-m", "app"], env=environment, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_up(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False)
            return
        time.sleep(0.1)
    raise AssertionError("the API did not come up")


def test_the_client_goes_on_after_the_service_was_killed_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "RESUMABLE_BYTES", 1)
    monkeypatch.setattr(uploads, "PIECE_BYTES", 100_000)
    service, port = Service(tmp_path / "home", max_model_bytes=10_000_000), free_port()
    file, content = tmp_path / "net.safetensors", weights(num_columns=120_000)
    file.write_bytes(content)
    done: list[int] = []
    with service.worker(), contextlib.ExitStack() as later:
        with api(service, port) as first, Client(f"http://127.0.0.1:{port}", patience_s=60) as client:
            wait_until_up(port)

            def restart() -> None:
                first.send_signal(signal.SIGKILL)
                later.enter_context(api(service, port))

            def on_progress(sent: int, total: int) -> None:
                done.append(sent)
                if sent == 700_000:
                    threading.Thread(target=restart).start()
                    first.wait(30)

            model = client.upload_model(file, arch="cifar/resnet20", on_progress=on_progress)
        assert model.sha256 == hashlib.sha256(content).hexdigest()
        assert done == sorted(done) and done[-1] == len(content) and len(done) == -(-len(content) // 100_000)
    assert [path.name for path in service.files()] == [model.sha256]


def test_a_service_that_stays_away_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "RESUMABLE_BYTES", 1)
    monkeypatch.setattr(uploads, "PIECE_BYTES", 1000)
    service, port = Service(tmp_path / "home"), free_port()
    file = tmp_path / "net.safetensors"
    file.write_bytes(weights(num_columns=1000) + os.urandom(10))
    with api(service, port) as process, Client(f"http://127.0.0.1:{port}", patience_s=1.0) as client:
        wait_until_up(port)

        def kill(sent: int, total: int) -> None:
            process.kill()
            process.wait(30)

        with pytest.raises(ConnectionFailed):
            client.upload_model(file, arch="cifar/resnet20", on_progress=kill)


def test_a_refusal_in_the_middle_is_not_tried_again(service: Service, tmp_path: Path) -> None:
    error = check(
        service.client.post("/v1/uploads", json={"purpose": "model", "size_bytes": 10**9}), 413, "body_too_large"
    )
    assert not uploads._passes(ApiError(Problem.model_validate(error)))
