"""One job seen from outside: its trace at a collector, and its log lines by the request that made it."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.integration.api_service import Service as ApiService
from tests.integration.engine_service import ROOT, Service, eventually

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


class Collector:
    """Takes spans as an OpenTelemetry collector does: protobuf over HTTP."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        """Name of the service, and the span."""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                assert self.headers["Content-Type"] == "application/x-protobuf"
                collector.take(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, body: bytes) -> None:
        """Decode and keep what one process sent."""
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            (service,) = [one.value.string_value for one in resource.resource.attributes if one.key == "service.name"]
            self.spans += [(service, span) for scope in resource.scope_spans for span in scope.spans]

    def named(self, name: str) -> Span:
        """The one span of this name."""
        (span,) = [span for _, span in self.spans if span.name == name]
        return span


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A running collector."""
    collector = Collector()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()


def attributes(span: Span) -> dict[str, Any]:
    """Attributes by name."""
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in span.attributes}


def test_a_submitted_job_is_one_trace_from_its_caller_to_its_child(tmp_path: Path, collector: Collector) -> None:
    service = ApiService(tmp_path / "home", otlp_endpoint=collector.url)
    with service.client as client:
        with service.worker():
            spec = service.spec()
            answer = client.post("/v1/prune-jobs", json=spec, headers={"traceparent": TRACEPARENT})
            job_id = answer.json()["id"]
            assert service.ended(job_id).status == "succeeded"
        client.get("/healthz")
        client.get("/metrics")
    ours = [(name, span) for name, span in collector.spans if span.trace_id.hex() == TRACE_ID]
    assert {(name, span.name) for name, span in ours} == {
        ("secateur-api", "POST /v1/prune-jobs"), ("secateur-worker", "queue"), ("secateur-worker", "job"),
        ("secateur-worker", "step work"), ("secateur-worker", "child"), ("secateur-worker", "wait for the device"),
        ("secateur-worker", "load"), ("secateur-worker", "run"),
    }  # fmt: skip
    spans = {span.name: span for _, span in ours}
    parents = {name: span.parent_span_id for name, span in spans.items()}
    request = spans["POST /v1/prune-jobs"]
    assert parents.pop("POST /v1/prune-jobs").hex() == SPAN_ID, "the caller's trace goes on"
    assert {parents.pop(name) for name in ("queue", "job", "step work")} == {request.span_id}
    assert parents.pop("child") == spans["step work"].span_id
    assert set(parents.values()) == {spans["child"].span_id}
    for name in ("queue", "job", "step work"):
        told = attributes(spans[name])
        assert (told["secateur.job_id"], told["secateur.device"], told["secateur.kind"]) == (job_id, "local", "prune")
    assert attributes(spans["job"])["secateur.outcome"] == "budget_met"
    assert attributes(spans["job"])["secateur.status"] == "succeeded"
    assert attributes(spans["step work"])["secateur.step"] == "work"
    assert spans["queue"].end_time_unix_nano <= spans["run"].start_time_unix_nano
    assert spans["child"].start_time_unix_nano <= spans["run"].start_time_unix_nano <= spans["run"].end_time_unix_nano
    assert not [span for _, span in collector.spans if "healthz" in span.name or "metrics" in span.name]


def test_a_job_that_fails_says_so_in_its_trace(tmp_path: Path, sqlite_url: str, collector: Collector) -> None:
    service = Service(tmp_path, sqlite_url, otlp_endpoint=collector.url)
    try:
        worker = service.start_worker()
        job_id = service.submit(act="problem", origin={"traceparent": TRACEPARENT})
        untraced = service.submit()
        assert {service.ended(one).status for one in (job_id, untraced)} == {"failed", "succeeded"}
        worker.terminate()
        assert worker.wait(20) == 0
    finally:
        service.close()
    job = collector.named("job")
    assert attributes(job)["secateur.error"] == "bad_labels" and job.status.code == 2
    assert {span.trace_id.hex() for _, span in collector.spans} == {TRACE_ID}, "a job without a trace makes no spans"


def test_without_an_endpoint_nothing_of_the_sdk_is_loaded(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, app.main, app.migrate, app.settings, workers.worker, workers.engine\n"
        f"settings = app.settings.Settings(home=pathlib.Path({str(tmp_path)!r}))\n"
        "app.migrate.migrate(settings); app.main.create_app(settings); app.tracing.Tracing(settings, 'x')\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "[]"


def lines(path: Path) -> list[dict[str, Any]]:
    """Every line of a log; each must be a record."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def with_password(url: str) -> str:
    """The same database, reached with a password, which this server does not check."""
    scheme, _, rest = url.partition("://")
    user, _, place = rest.partition("@")
    return f"{scheme}://{user.partition(':')[0]}:sw0rdf1sh%2F!@{place}"


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_what_became_of_a_request_is_found_by_its_id(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(f"{kind}_url")
    url = with_password(url) if kind == "postgres" else url
    service = Service(tmp_path, url, log_level="DEBUG", store_secret_access_key="k3y-0123")
    log = tmp_path / "worker.log"
    try:
        worker = service.start_worker(log=log)
        origin: Mapping[str, str] = {"request_id": "req-77", "traceparent": TRACEPARENT}
        job_id = service.submit(act="talk", origin=origin)
        other = service.submit(origin={"request_id": "req-78"})
        for one in (job_id, other):
            assert service.ended(one).status == "succeeded"
        eventually(lambda: sum(line["action"] == "job_end" for line in lines(log)) == 2, "the last line")
        worker.terminate()
        assert worker.wait(20) == 0
    finally:
        service.close()
    text, found = log.read_text(), lines(log)
    assert all(line["timestamp"].endswith("Z") and line["action"] for line in found)
    mine = [line for line in found if line.get("request_id") == "req-77"]
    assert {"job_begin", "child_record", "child_output", "job_end"} <= {line["action"] for line in mine}
    assert {(line["job_id"], line["trace_id"]) for line in mine} == {(job_id, TRACE_ID)}
    (record,) = [line for line in mine if line["action"] == "child_record" and line["child_logger"] == "toy"]
    assert (record["event"], record["level"], record["step"]) == ("a record of a library", "warning", "work")
    assert [line["event"] for line in mine if line["action"] == "child_output"] == ["a line on stdout"]
    assert all(line["job_id"] == other for line in found if line.get("request_id") == "req-78")
    for secret in ("sw0rdf1sh", "k3y-0123"):
        assert secret not in text
