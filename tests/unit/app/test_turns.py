"""Whose turn it is: submitters alternate, and nobody is overtaken for ever."""

from itertools import count
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.queue import HIGHEST_PRIORITY, TURNS
from app.scheduling import release, schedule
from app.services import Services
from app.store.migrate import migrate_tables
from app.store.repositories import Datasets, Devices, Events, Jobs, Models, Turns
from app.store.sessions import Database


class Line:
    """The queue of one device, as the engine would serve it: by turn, then by age."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.submitters: dict[str, str] = {}
        self.turns: dict[str, int] = {}
        with database.write() as session:
            model = Models(session).add(
                name="m", arch="onnx", sha256="a" * 64, size_bytes=1, num_parameters=1, num_outputs=2,
                input_shape=None, class_names=None,
            )  # fmt: skip
            dataset = Datasets(session).add(
                name="d", sha256="b" * 64, size_bytes=1, image_size=8, mean=[0.0], std=[1.0], classes=["a"],
                num_images={"train": 1}, num_skipped=0, skipped=[], class_map=None,
            )  # fmt: skip
            self._inputs = {"model_id": model.id, "dataset_id": dataset.id}

    def join(self, submitter: str, num: int = 1) -> None:
        """Let a submitter queue jobs."""
        for _ in range(num):
            with self.database.write() as session:
                row = Jobs(session).add(name="", spec={}, device_id="local", submitter=submitter, **self._inputs)
                row.queue = "device:local"
                Turns(session).give([row])
                assert row.turn is not None
                self.submitters[row.id] = submitter
                self.turns[row.id] = row.turn

    def serve(self, num: int = 1) -> str:
        """Begin the next jobs and return whose they were."""
        served = ""
        for _ in range(num):
            if not self.turns:
                break
            job_id = min(self.turns, key=lambda one: (self.turns[one], one))
            del self.turns[job_id]
            with self.database.write() as session:
                assert Jobs(session).begin(job_id, "w")
            served += self.submitters[job_id]
        return served


@pytest.fixture
def line(database: Database) -> Line:
    """An empty queue, on SQLite and on Postgres."""
    return Line(database)


def test_a_single_job_waits_for_one_of_many(line: Line) -> None:
    line.join("a", 30)
    assert line.serve(5) == "aaaaa"
    line.join("b")
    assert line.serve(4) in ("abaa", "baaa")


def test_who_always_has_one_job_waiting_does_not_overtake_who_has_many(line: Line) -> None:
    line.join("a", 10)
    served = ""
    for _ in range(20):
        line.join("b")
        served += line.serve()
    assert served.count("a") == 10, "steady small submits starve nobody either"
    assert "bbb" not in served[:18]


def test_a_job_that_was_handed_back_is_not_overtaken_by_those_that_come_later(line: Line) -> None:
    line.join("a", 20)
    line.serve(19)
    (job_id,) = line.turns
    turn = line.turns[job_id]
    with line.database.write() as session:
        Jobs(session).begin(job_id, "w")
        row = Jobs(session).get(job_id)
        assert row is not None
        row.worker_id = None  # as a worker that drains leaves it
    line.join("b", 3)
    assert all(line.turns[one] >= turn for one in line.turns)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4), st.integers(0, 3)), max_size=8))
def test_between_two_jobs_of_who_waits_nobody_else_gets_more_than_two(
    tmp_path: Path, moves: list[tuple[str, int, int]]
) -> None:
    url = f"sqlite:///{tmp_path}/{next(_NUMBERS)}.db"
    migrate_tables(url)
    line = Line(Database(url))
    history: list[tuple[str, set[str]]] = []

    def serve() -> None:
        waiting = {line.submitters[job_id] for job_id in line.turns}
        if one := line.serve():
            history.append((one, waiting))

    for submitter, num_joins, num_served in moves:
        line.join(submitter, num_joins)
        for _ in range(num_served):
            serve()
    while line.turns:
        serve()
    line.database.close()
    for patient in "abc":
        since: dict[str, int] = {}
        for served, waiting in history:
            if served == patient or patient not in waiting:
                since = {}
                continue
            since[served] = since.get(served, 0) + 1
            assert since[served] <= 2, (patient, [one for one, _ in history])


_NUMBERS = count()


def test_priorities_and_turns_fit_into_the_engines_numbers(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    client = services.queue._client
    monkeypatch.setattr(
        client, "enqueue_in_transaction", lambda session, options, *args: seen.append(options["priority"])
    )
    with services.database.write() as session:
        for priority, turn in ((HIGHEST_PRIORITY, 0), (10, 5), (0, 0), (0, 10 * TURNS), (-1, 0), (-10, 10 * TURNS)):
            services.queue.enqueue_prune(
                session, job_id="j", workflow_id="w", queue="device:local", priority=priority, turn=turn
            )
    assert seen == sorted(seen) and len(set(seen)) == len(seen)
    assert seen[0] == 1 and seen[-1] < 2**31


def test_a_job_that_waits_is_released_once_however_many_look(services: Services) -> None:
    line = Line(services.database)
    with services.database.write() as session:
        Devices(session).register("local", name="l", hardware="cpu", runtime="ort", runtime_version="1")
        first = Jobs(session).add(name="", spec={}, device_id="local", **line._inputs)
        schedule(session, services.queue, first)
        second = Jobs(session).add(name="", spec={}, device_id="local", **line._inputs)
        schedule(session, services.queue, second, after=[first.id, first.id])
    for _ in range(2):
        release(services.database, services.queue)
    with services.database.read() as session:
        assert [row.turn for row in (Jobs(session).get(one.id) for one in (first, second)) if row] == [0, None]
    with services.database.write() as session:
        Jobs(session).begin(first.id, "w")
        Jobs(session).succeed(first.id, outcome=None, summary={})
    for _ in range(2):
        release(services.database, services.queue)
    with services.database.read() as session:
        row = Jobs(session).get(second.id)
        assert row is not None and (row.turn, row.phase, row.queue) == (0, None, "device:local")
        said = [event.data for event in Events(session).after(second.id) if event.kind == "log"]
    assert said == [{"text": f"Waiting for the job {first.id} to end.", "needs": first.id}]


@pytest.mark.parametrize(
    "change", [{"priority": 11}, {"priority": -11}, {"timeout_minutes": 0}, {"timeout_minutes": -1}]
)
def test_a_priority_or_time_without_sense_is_refused(client: TestClient, change: dict[str, float]) -> None:
    body = {"model_id": "m", "dataset_id": "d", "classes": ["a"], "budget_ms": 1, **change}
    answer = client.post("/v1/prune-jobs", json=body)
    assert answer.status_code == 422 and answer.json()["errors"][0]["pointer"] == f"/{next(iter(change))}"


@pytest.mark.parametrize("path", ["prune-jobs", "lut-builds"])
def test_a_job_that_is_to_run_after_nothing_known_is_refused(client: TestClient, path: str) -> None:
    body = {"model_id": "m", "after": ["job_none"]}
    if path == "prune-jobs":
        body |= {"dataset_id": "d", "classes": ["a"], "budget_ms": 1}  # type: ignore[dict-item]
    answer = client.post(f"/v1/{path}", json=body)
    assert answer.status_code == 422
    assert "/after/0" in [error["pointer"] for error in answer.json()["errors"]]
