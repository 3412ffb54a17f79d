"""A submitted job costs few statements, and those that are left do what the many did."""

from typing import Any

from sqlalchemy import event, select

from app.store.base import database_now
from app.store.models import PruneJobRow
from app.store.repositories import Events, Waits
from secateur.access_schemas import Scope
from tests.unit.app.access_world import World, trail


def test_a_job_is_submitted_in_seven_statements(world: World) -> None:
    _, key = world.key(world.own, Scope.SUBMIT)
    body = world.spec(world.own)
    statements: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if not statement.startswith(("BEGIN", "COMMIT")):
            statements.append(statement)

    first = world.send(key, "POST", "/v1/prune-jobs", json=body)  # and notes that the key was used
    engine = world.services.database.engine
    event.listen(engine, "before_cursor_execute", note)
    second = world.send(key, "POST", "/v1/prune-jobs", json=body)
    event.remove(engine, "before_cursor_execute", note)
    assert len(statements) == 7, statements
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


def test_a_clock_that_is_set_off_is_another_statement(world: World) -> None:
    with world.services.database.read() as session:
        now, later, again = (session.scalar(select(database_now(offset))) for offset in (0, 3600, 0))
    assert now is not None and later is not None and again is not None
    assert (later - now).total_seconds() > 3000 > (again - now).total_seconds()
