"""Submitted jobs cost few statements, the fewer the more come at once, and each is answered for itself."""

import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic, sleep
from typing import Any

import pytest
from sqlalchemy import event, select, text

from app.api.submission import Submission, add_together
from app.auth import recent
from app.store.base import database_now
from app.store.models import PruneJobRow
from app.store.repositories import Events, Jobs, Keys, Projects, Waits
from app.store.repositories.turns import turns_query
from app.together import Together
from secateur.access_schemas import Scope
from tests.unit.app.access_world import World, trail


class Gate:
    """Lets a first request into a batch of its own and all others into the second, of which it counts the statements."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._open = threading.Event()
        self.statements: list[str] = []
        self.spoil: Sequence[str] = ()
        """Names of jobs that cannot be made."""

    def send(self, keys: Sequence[str], bodies: Sequence[dict[str, Any]]) -> list[Any]:
        """The answers to these requests, which come while another one is served."""
        _, first = self._world.key(self._world.own, Scope.SUBMIT)
        app, world = self._world.app, self._world
        usual = app.state.submissions
        app.state.submissions = together = Together[Submission, PruneJobRow](self._serve)
        with ThreadPoolExecutor(len(bodies) + 1) as pool:
            pool.submit(world.send, first, "POST", "/v1/prune-jobs", json=world.spec(world.own))
            self._wait(lambda: together._serving is not None and not together._waiting)
            sent = []
            for number, (key, body) in enumerate(zip(keys, bodies, strict=True), start=1):
                sent.append(pool.submit(world.send, key, "POST", "/v1/prune-jobs", json=body))
                self._wait(lambda number=number: len(together._waiting) == number)
            self._open.set()
            answers = [one.result() for one in sent]
        app.state.submissions = usual
        return answers

    def _serve(self, wanted: Sequence[Submission]) -> Sequence[PruneJobRow | Exception]:
        if not self._open.wait(10):
            raise AssertionError("nobody opened")
        if len(wanted) == 1:
            return add_together(self._world.services, wanted)
        wanted = [replace(one, make=_unmade) if one.spec.name in self.spoil else one for one in wanted]
        with noted(self._world) as statements:
            answers = add_together(self._world.services, wanted)
        self.statements += statements
        return answers

    @staticmethod
    def _wait(happens: Any) -> None:
        deadline = monotonic() + 10
        while not happens():
            assert monotonic() < deadline
            sleep(0.002)


def _unmade(session: Any) -> Any:
    raise RuntimeError("spoilt")


@contextmanager
def noted(world: World) -> Any:
    """Statements of transactions that look up keys or add jobs meanwhile; the service may tidy up beside them."""
    statements: list[str] = []
    by_connection: dict[Any, list[str]] = {}

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if not statement.startswith(("BEGIN", "COMMIT")):
            by_connection.setdefault(connection, []).append(statement)

    engine = world.services.database.engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)
        for some in by_connection.values():
            if any(one.startswith(("INSERT INTO prune_job", "SELECT api_key")) for one in some):
                statements += some


def test_a_job_is_submitted_in_eight_statements(world: World) -> None:
    _, key = world.key(world.own, Scope.SUBMIT)
    body = world.spec(world.own)
    first = world.send(key, "POST", "/v1/prune-jobs", json=body)  # and notes that the key was used
    with noted(world) as statements:
        second = world.send(key, "POST", "/v1/prune-jobs", json=body)
    assert len(statements) == 8, statements
    with world.services.database.read() as session:
        rows = [session.get_one(PruneJobRow, answer.json()["id"]) for answer in (first, second)]
        assert [(row.queue, row.turn) for row in rows] == [("device:local", 0), ("device:local", 1)]
        assert [event.data for event in Events(session).after(rows[1].id)] == [{"status": "queued"}]
        # What the answer told is what is stored.
        assert (
            second.json()
            == world.client.get(
                f"/v1/prune-jobs/{rows[1].id}",
                headers={"Authorization": f"Bearer {world.key(world.own, Scope.READ)[1]}"},
            ).json()
        )
        assert Waits(session).unmet(rows[1].id) == []
        assert rows[1].request_id == second.headers["x-request-id"]
    assert len(trail(world, object_id=rows[1].id)) == 1


def test_jobs_that_come_at_once_share_statements_and_take_turns(world: World) -> None:
    (_, one), (_, other) = world.key(world.own, Scope.SUBMIT), world.key(world.own, Scope.SUBMIT)
    body = world.spec(world.own)
    gate = Gate(world)
    answers = gate.send([one, one, other, one], [body] * 4)
    # Of each the engine's two rows; keys, inputs, turns, jobs, events and the trail once.
    assert len(gate.statements) == 2 * 4 + 6, gate.statements
    with world.services.database.read() as session:
        rows = [session.get_one(PruneJobRow, answer.json()["id"]) for answer in answers]
        assert [row.turn for row in rows] == [0, 1, 0, 2]
        assert [row.request_id for row in rows] == [answer.headers["x-request-id"] for answer in answers]
        for row, answer in zip(rows, answers, strict=True):
            assert [line.data for line in Events(session).after(row.id)] == [{"status": "queued"}]
            assert row.created_at.isoformat().replace("+00:00", "Z") == answer.json()["created_at"]
    assert [len(trail(world, object_id=row.id)) for row in rows] == [1] * 4
    assert len({answer.headers["location"] for answer in answers}) == 4


def test_what_is_refused_leaves_the_others_of_its_batch_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        recent, "TRUSTED_S", 3600.0
    )  # on a busy machine a batch may take more than a second to come together
    (_, good), (revoked, bad) = world.key(world.own, Scope.SUBMIT), world.key(world.own, Scope.SUBMIT)
    body, foreign = world.spec(world.own), world.spec(world.other)
    for key in (good, bad):
        world.send(key, "POST", "/v1/prune-jobs", json=body)
    with world.services.database.write() as session:
        Keys(session).revoke(revoked.id)  # by another process: nobody tells this one
    bodies = [body, {**body, "classes": ["dog"]}, foreign, body, body]
    answers = Gate(world).send([good, good, good, bad, good], bodies)
    assert [answer.status_code for answer in answers] == [202, 422, 422, 401, 202]
    assert [answer.json().get("code") for answer in answers[1:4]] == ["unknown_class", "unknown_model", "key_refused"]
    statuses = [one.status for one in trail(world, action="POST /v1/prune-jobs")]
    assert statuses.count(401) == 1 and statuses.count(422) == 2


def test_the_last_job_of_a_quota_goes_to_one_of_a_batch(world: World) -> None:
    with world.services.database.write() as session:
        project = Projects(session).get(world.own.project_id)
        assert project is not None
        project.limits = {"max_active_jobs": 3}  # one goes to the request that comes first
    _, key = world.key(world.own, Scope.SUBMIT)
    answers = Gate(world).send([key] * 4, [world.spec(world.own) for _ in range(4)])
    assert [answer.status_code for answer in answers] == [202, 202, 429, 429]


def test_a_batch_that_fails_is_done_one_by_one(world: World) -> None:
    _, key = world.key(world.own, Scope.SUBMIT)
    body = world.spec(world.own)
    gate = Gate(world)
    gate.spoil = ["spoilt"]
    answers = gate.send([key] * 3, [body, {**body, "name": "spoilt"}, body])
    assert [answer.status_code for answer in answers] == [202, 500, 202]
    with world.services.database.read() as session:
        assert len(Jobs(session).page().rows) == 3, "with the one that came first; none twice"


def test_turns_are_looked_up_in_the_indexes_made_for_them(world: World) -> None:
    """By plans that are kept for any parameters, too: otherwise each job looks at all that wait."""
    with world.services.database.write() as session:
        numbers: list[str] = []

        def numbered(match: re.Match[str]) -> str:
            if match[1] not in numbers:
                numbers.append(match[1])
            return f"${1 + numbers.index(match[1])}"

        connection = session.connection()
        compiled = turns_query(connection.dialect.name).compile(connection)
        query, line = str(compiled), {"queue": "device:local", "priority": 0, "submitters": '{"me": null}'}
        if connection.dialect.name == "sqlite":
            explain = f"EXPLAIN QUERY PLAN {query}"
            values = tuple(line.get(name, "") for name in compiled.positiontup or ())
            plan = str(connection.exec_driver_sql(explain, values).all())
        else:
            connection.execute(text("SET LOCAL enable_seqscan = off"))
            explain = "EXPLAIN (GENERIC_PLAN) " + re.sub(r"%\((\w+)\)s", numbered, query)
            plan = str(connection.exec_driver_sql(explain).all())
    for index in ("ix_prune_job_turn", "ix_prune_job_turn_of_submitter", "ix_prune_job_status_id"):
        assert f"{index} " in plan, plan


def test_a_clock_that_is_set_off_is_another_statement(world: World) -> None:
    with world.services.database.read() as session:
        now, later, again = (session.scalar(select(database_now(offset))) for offset in (0, 3600, 0))
    assert now is not None and later is not None and again is not None
    assert (later - now).total_seconds() > 3000 > (again - now).total_seconds()
