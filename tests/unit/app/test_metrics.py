"""What Prometheus is told: every metric that is documented and no other, by route templates, of all processes together."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from app.documentation import README
from app.main import create_app
from app.metrics import METRICS
from app.migrate import migrate
from app.services import Services
from app.settings import Settings
from app.store.base import database_now
from app.store.models import PruneJobRow
from app.store.repositories import Datasets, Devices, Jobs, Models, Workers

ROOT = Path(__file__).parents[3]
HERE = "http://127.0.0.1:8117"


@pytest.fixture
def watched(tmp_path: Path, empty_url: str) -> Iterator[TestClient]:
    """A client of an app on SQLite or Postgres whose figures are read at each scrape."""
    settings = Settings(home=tmp_path / "home", database_url=empty_url, metrics_cache_s=0)
    migrate(settings)
    with TestClient(create_app(settings), base_url=HERE) as client:
        yield client


def figures(client: TestClient) -> dict[str, float]:
    """Every sample by its name and labels."""
    answer = client.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    return samples(answer.text)


def samples(text: str) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def fill(services: Services) -> dict[str, str]:
    """One job of each status, a live and a dead worker; ids by status."""
    with services.database.write() as session:
        Devices(session).register("local", name="l", hardware="cpu", runtime="ort", runtime_version="1")
        Devices(session).enrol("phone", [{"hardware": "arm", "runtime": "ort", "runtime_version": "1"}])
        Workers(session).register("h/0:a", slot="h/0", device_id="local")
        Workers(session).register("h/0:b", slot="h/0", device_id="local")
        Workers(session).declare_older_boots_dead("h/0", "h/0:b")
        file: dict[str, Any] = {"sha256": "a" * 64, "size_bytes": 1000}
        model = Models(session).add(
            name="m", arch="onnx", num_parameters=1, num_outputs=2, input_shape=None, class_names=None, **file
        )
        again = Models(session).add(
            name="same file", arch="onnx", num_parameters=1, num_outputs=2, input_shape=None, class_names=None, **file
        )
        dataset = Datasets(session).add(
            name="d", sha256="b" * 64, size_bytes=24, image_size=8, mean=[0.0], std=[1.0], classes=["a"],
            num_images={"train": 1}, num_skipped=0, skipped=[], class_map=None,
        )  # fmt: skip
        assert again.id != model.id
        jobs = Jobs(session)
        found = {}
        for status in ("queued", "running", "succeeded", "failed", "cancelled"):
            row = jobs.add(name=status, spec={}, model_id=model.id, dataset_id=dataset.id, device_id="local")
            found[status] = row.id
            if status == "cancelled":
                jobs.request_cancel(row.id)
            elif status != "queued":
                jobs.begin(row.id, "h/0:b")
                jobs.set_phase(row.id, "scoring")
                jobs.set_phase(row.id, "solving")
        jobs.succeed(found["succeeded"], outcome="budget_met", summary={})
        jobs.fail(found["failed"], code="poison_job", detail="")
        return found


def test_every_documented_metric_is_served_and_every_served_one_is_documented(watched: TestClient) -> None:
    fill(watched.app.state.services)  # type: ignore[attr-defined]
    text = watched.get("/metrics").text
    served = {family.name: family.type for family in text_string_to_metric_families(text)}
    names = {name.removesuffix("_total"): kind for name, kind in METRICS.items()}
    ours = {name for name in served if name.startswith("secateur_")}
    # The window of a histogram comes with sums that are gauges; Prometheus' own client adds when a counter began.
    extra = {f"secateur_phase_duration_seconds_{end}" for end in ("gcount", "gsum")}
    assert {name for name in ours if not name.endswith("_created")} == set(names) | extra
    for name, kind in names.items():
        assert served[name] == kind.kind, name
        assert kind.meaning.endswith("."), name
        assert kind.kind != "counter" or name + "_total" in METRICS
        if kind.unit in ("seconds", "bytes"):
            assert name.endswith(kind.unit), name
    readme = README.read_text()
    assert all(f"`{name}`" in readme for name in METRICS), "run `python -m app.documentation`"


def test_figures_of_the_service_are_those_of_its_database(watched: TestClient) -> None:
    services: Services = watched.app.state.services  # type: ignore[attr-defined]
    jobs = fill(services)
    with services.database.write() as session:
        row = session.get(PruneJobRow, jobs["queued"])
        assert row is not None
        row.created_at = database_now(-90)  # type: ignore[assignment]
    found = figures(watched)
    for status in jobs:
        assert found[f'secateur_jobs{{kind="prune",status="{status}"}}'] == 1
    assert 90 <= found['secateur_oldest_queued_seconds{device="local"}'] < 120
    assert found['secateur_workers{status="live"}'] == found['secateur_workers{status="dead"}'] == 1
    assert found["secateur_agents_online"] == 1 and found['secateur_measurements{status="queued"}'] == 0
    assert found["secateur_stored_bytes"] == 1024, "a file that two rows name is stored once"
    assert found['secateur_jobs_failed{code="poison_job"}'] == 1
    assert found['secateur_jobs_outcome{outcome="budget_met"}'] == 1
    assert found['secateur_phase_duration_seconds_bucket{kind="prune",le="+Inf",phase="solving"}'] == 2
    assert found['secateur_phase_duration_seconds_bucket{kind="prune",le="10.0",phase="scoring"}'] == 2
    assert found["secateur_database_up"] == 1


def test_requests_are_told_by_template_and_never_by_path(client: TestClient) -> None:
    for path in ("/v1/prune-jobs/job_secret1", "/v1/prune-jobs/job_secret2", "/static/style.css", "/.env", "/wp-admin"):
        client.get(path)
    client.request("BREW", "/v1/prune-jobs")
    found = figures(client)
    assert found['secateur_requests_total{method="GET",route="/v1/prune-jobs/{job_id}",status="404"}'] == 2
    assert found['secateur_requests_total{method="GET",route="unmatched",status="404"}'] == 2
    assert found['secateur_requests_total{method="GET",route="/static/{path}",status="200"}'] == 1
    assert found['secateur_request_duration_seconds_count{method="GET",route="/v1/prune-jobs/{job_id}"}'] == 2
    assert any('method="other"' in name for name in found)
    assert not any("secret" in name or "env" in name or "BREW" in name for name in found)
    assert found["secateur_requests_in_flight"] == 1, "the scrape itself"


def test_the_database_is_asked_once_in_a_while(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", metrics_cache_s=60)
    migrate(settings)
    with TestClient(create_app(settings), base_url=HERE) as client:
        figures(client)
        fill(client.app.state.services)  # type: ignore[attr-defined]
        assert 'secateur_jobs{kind="prune",status="queued"}' not in figures(client)


def test_without_a_database_the_process_still_tells_of_itself(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", metrics_cache_s=0)
    migrate(settings)
    with TestClient(create_app(settings), base_url=HERE) as client:
        services: Services = client.app.state.services  # type: ignore[attr-defined]
        with services.database.write() as session:
            session.connection().exec_driver_sql("ALTER TABLE worker RENAME TO gone")
        found = figures(client)
        assert found["secateur_database_up"] == 0 and found["process_open_fds"] > 0
        assert not any(name.startswith("secateur_jobs") for name in found)


def test_metrics_can_be_off(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", metrics="off")
    migrate(settings)
    with TestClient(create_app(settings), base_url=HERE) as client:
        assert client.get("/metrics").status_code == 404


def test_metrics_can_have_a_port_of_their_own(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = Settings(home=tmp_path / "home", metrics="port", metrics_port=port)
    migrate(settings)
    with TestClient(create_app(settings), base_url=HERE) as client:
        assert client.get("/metrics").status_code == 404
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            found = samples(answer.read().decode())
    assert found["secateur_database_up"] == 1
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_processes_that_share_a_folder_answer_for_each_other(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PROMETHEUS_MULTIPROC_DIR": str(shared)}
    environment |= {"SECATEUR_HOME": str(tmp_path / "home"), "SECATEUR_PORT": "0", "SECATEUR_METRICS_CACHE_S": "0"}
    processes = []
    try:
        for _ in range(2):
            process = subprocess.Popen(
                [sys.executable, "-m", "app"], env=environment, cwd=ROOT, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            processes += [process]
        urls = [process.stdout.readline().split()[-1] for process in processes if process.stdout]
        for url in (urls[0], urls[1], urls[1]):
            assert get(f"{url}/healthz")
        time.sleep(0.2)
        found = [samples(get(f"{url}/metrics")) for url in urls]
        counted = 'secateur_requests_total{method="GET",route="/healthz",status="200"}'
        assert [one[counted] for one in found] == [3, 3]
        assert found[0]["secateur_database_up"] == 1 and found[0]["secateur_requests_in_flight"] >= 1
        assert not any(re.search(r'pid="', name) for name in found[0])
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            if process.stdout:
                process.stdout.close()


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())
