"""Prometheus metrics: what this process answers, and what the database says of the whole service.

Several API processes on one machine that share an address keep their figures in the folder that the environment
variable PROMETHEUS_MULTIPROC_DIR names (see prometheus-client); any of them then answers for all.
"""

import os
import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client import start_http_server as start_server
from prometheus_client.core import GaugeHistogramMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from app.services import Services
from app.store.repositories import Figures
from app.store.repositories.figures import Snapshot

SHARED = "PROMETHEUS_MULTIPROC_DIR"
LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
Labels = TypeVar("Labels", bound=tuple[str, ...])
PHASE_S = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a metric is, for the documentation, the dashboard and the alerts."""

    kind: str
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()


METRICS: Mapping[str, Kind] = {
    "secateur_requests_total": Kind(
        kind="counter", unit="requests", labels=("method", "route", "status"),
        meaning="Requests answered; `route` is the template (`/v1/prune-jobs/{job_id}`), `unmatched` where there is none.",
    ),
    "secateur_request_duration_seconds": Kind(
        kind="histogram", unit="seconds", labels=("method", "route"),
        meaning="Time to the end of the answer; of an event stream, to its beginning.",
    ),
    "secateur_requests_in_flight": Kind(
        kind="gauge", unit="requests", meaning="Requests being answered now, event streams aside."
    ),
    "secateur_event_streams": Kind(kind="gauge", unit="streams", meaning="Event streams open now: watchers of jobs."),
    "secateur_database_up": Kind(
        kind="gauge", unit="0 or 1", meaning="Whether the database answered. At 0 the figures from it are left out."
    ),
    "secateur_database_pool_connections": Kind(
        kind="gauge", unit="connections", labels=("state",), meaning="Of this process: `in_use`, `idle`."
    ),
    "secateur_jobs": Kind(
        kind="gauge", unit="jobs", labels=("kind", "status"), meaning="Jobs and table builds there are."
    ),
    "secateur_oldest_queued_seconds": Kind(
        kind="gauge", unit="seconds", labels=("device",), meaning="Age of the device's oldest queued job."
    ),
    "secateur_workers": Kind(
        kind="gauge", unit="boots", labels=("status",),
        meaning="Boots of workers: `live`, `silent` (no heartbeat for SECATEUR_WORKER_TIMEOUT_S), `stopped`, `dead`.",
    ),
    "secateur_agents_online": Kind(kind="gauge", unit="devices", meaning="Devices of which an agent is there."),
    "secateur_measurements": Kind(
        kind="gauge", unit="measurements", labels=("status",), meaning="Asked of agents: `queued` ones wait."
    ),
    "secateur_stored_bytes": Kind(kind="gauge", unit="bytes", meaning="Files that rows name, each counted once."),
    "secateur_tables": Kind(kind="gauge", unit="tables", meaning="Latency tables."),
    "secateur_table_entries": Kind(kind="gauge", unit="entries", meaning="Entries of all latency tables."),
    "secateur_jobs_failed": Kind(kind="gauge", unit="jobs", labels=("code",), meaning="Failed jobs by their code."),
    "secateur_jobs_outcome": Kind(
        kind="gauge", unit="jobs", labels=("outcome",), meaning="`budget_met`, `budget_missed`, `infeasible`."
    ),
    "secateur_phase_duration_seconds": Kind(
        kind="histogram", unit="seconds", labels=("kind", "phase"),
        meaning="What jobs that ended within the last hour spent in their phases: a window, not to be put into `rate`.",
    ),
}  # fmt: skip


class Metrics:
    """The instruments of one app."""

    def __init__(self) -> None:
        self._own = CollectorRegistry()
        self.requests = Counter(
            "secateur_requests", METRICS["secateur_requests_total"].meaning, ("method", "route", "status"),
            registry=self._own,
        )  # fmt: skip
        name = "secateur_request_duration_seconds"
        self.duration_s = Histogram(
            name, METRICS[name].meaning, ("method", "route"), buckets=LATENCY_S, registry=self._own
        )
        self.in_flight = self._gauge("secateur_requests_in_flight")
        self.streams = self._gauge("secateur_event_streams")
        self._service: Collector | None = None

    def watch(self, services: Services) -> None:
        """From now on tell what the database says, too; on a port of its own where the settings say so."""
        self._service = _Service(services)
        if services.settings.metrics == "port":
            server, thread = start_server(
                services.settings.metrics_port, addr=services.settings.host, registry=self._registry()
            )
            self._server, self._thread = server, thread

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry())

    def close(self) -> None:
        """Stop answering on a port of its own, and leave the figures of processes that live."""
        if hasattr(self, "_server"):
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
        if SHARED in os.environ:
            mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]

    def _registry(self) -> CollectorRegistry:
        if SHARED in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        else:
            registry = CollectorRegistry()
            registry.register(_Same(self._own))
        ProcessCollector(registry=registry)
        if self._service is not None:
            registry.register(self._service)
        return registry

    def _gauge(self, name: str) -> Gauge:
        return Gauge(name, METRICS[name].meaning, registry=self._own, multiprocess_mode="livesum")


class _Same(Collector):
    """A registry within another one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        return self._registry.collect()


class _Service(Collector):
    """What the database says, read at a scrape and kept for a few seconds: ten who watch cost no more than one."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._mutex = threading.Lock()
        self._read_at = -float("inf")
        self._snapshot: Snapshot | None = None

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        snapshot = self._look()
        pool = self._services.database.engine.pool
        assert isinstance(pool, QueuePool)
        yield _gauge("secateur_database_up", {(): int(snapshot is not None)})
        states = {("in_use",): pool.checkedout(), ("idle",): pool.checkedin()}
        yield _gauge("secateur_database_pool_connections", states)
        if snapshot is not None:
            yield from _families(snapshot)

    def _look(self) -> Snapshot | None:
        settings = self._services.settings
        with self._mutex:
            if time.monotonic() - self._read_at >= settings.metrics_cache_s:
                try:
                    with self._services.database.read() as session:
                        self._snapshot = Figures(session).snapshot(
                            worker_timeout_s=settings.worker_timeout_s, agent_lease_s=settings.agent_lease_s
                        )
                except SQLAlchemyError:
                    self._snapshot = None
                self._read_at = time.monotonic()
            return self._snapshot


def _families(now: Snapshot) -> Iterator[Metric]:
    yield _gauge("secateur_jobs", now.jobs)
    yield _gauge("secateur_oldest_queued_seconds", _by_one(now.oldest_queued_s))
    yield _gauge("secateur_workers", _by_one({"live": 0, **now.workers}))
    yield _gauge("secateur_agents_online", {(): now.num_agents_online})
    yield _gauge("secateur_measurements", _by_one({"queued": 0, **now.measurements}))
    yield _gauge("secateur_stored_bytes", {(): now.stored_bytes})
    yield _gauge("secateur_tables", {(): now.num_tables})
    yield _gauge("secateur_table_entries", {(): now.num_table_entries})
    yield _gauge("secateur_jobs_failed", _by_one(now.failures))
    yield _gauge("secateur_jobs_outcome", _by_one(now.outcomes))
    yield _phases(now.phases)


def _by_one(values: Mapping[str, float]) -> dict[tuple[str], float]:
    return {(name,): value for name, value in values.items()}


def _gauge(name: str, values: Mapping[Labels, float]) -> Metric:
    family = GaugeMetricFamily(name, METRICS[name].meaning, labels=METRICS[name].labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _phases(phases: Mapping[tuple[str, str], Sequence[float]]) -> Metric:
    name = "secateur_phase_duration_seconds"
    family = GaugeHistogramMetricFamily(name, METRICS[name].meaning, labels=METRICS[name].labels)
    for labels, seconds in phases.items():
        counts = [0] * (len(PHASE_S) + 1)
        for value in seconds:
            counts[bisect_left(PHASE_S, value)] += 1
        bounds = [*map(str, PHASE_S), "+Inf"]
        family.add_metric(labels, list(zip(bounds, accumulate(counts), strict=True)), sum(seconds))
    return family
