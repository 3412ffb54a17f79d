"""Nothing is done or refused without a trace, and no trace is of something that was not done."""

from typing import Any

import pytest

from app.store.repositories import Audit, Jobs
from secateur.access_schemas import Scope
from tests.unit.app.access_world import PARTS, World, fresh, problem, trail


def test_each_request_that_changes_or_is_refused_leaves_one_row(world: World) -> None:
    row, key = world.key(world.own, *PARTS)
    job_id = world.job(world.own)
    before = len(trail(world))
    for method, path, status in (
        ("POST", f"/v1/prune-jobs/{job_id}/cancel", 202),
        ("POST", f"/v1/prune-jobs/{job_id}/cancel", 409),
        ("DELETE", "/v1/models/mdl_none", 404),
        ("GET", "/v1/projects", 403),
    ):
        answer = world.send(key, method, path, headers={"X-Request-ID": f"r-{status}"})
        assert answer.status_code == status
        (one,) = trail(world, request_id=f"r-{status}")
        assert (one.status, one.key_id, one.project_id) == (status, row.id, world.own.project_id)
        assert one.address == "testclient"
    (cancelled,) = trail(world, request_id="r-202")
    assert cancelled.action == "POST /v1/prune-jobs/{job_id}/cancel"
    assert (cancelled.object_kind, cancelled.object_id) == ("prune-jobs", job_id)
    assert world.send(None, "GET", "/v1/models").status_code == 401
    evil = {"Origin": "https://evil.example.com"}
    assert world.send(key, "POST", "/v1/prune-jobs", headers=evil).status_code == 403
    newest = trail(world)[:2]
    assert [(one.action, one.status, one.key_id) for one in newest] == [
        ("POST /v1/prune-jobs", 403, None), ("GET /v1/models", 401, None),
    ]  # fmt: skip
    assert len(trail(world)) == before + 6
    for path in ("/v1/models", "/v1/whoami", "/v1/nothing"):
        world.send(key, "GET", path)
    assert len(trail(world)) == before + 6, "looking leaves no row"


def test_a_change_and_its_row_are_stored_together_or_not_at_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _, key = world.key(world.own, Scope.SUBMIT)
    body = world.spec(world.own)

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no audit")

    with monkeypatch.context() as patch:
        patch.setattr(Audit, "add_all", broken)
        assert world.send(key, "POST", "/v1/prune-jobs", json=body).status_code == 500
    with world.services.database.read() as session:
        assert Jobs(session).page().rows == []
    patched = type(world.services.queue)
    with monkeypatch.context() as patch:
        patch.setattr(patched, "enqueue_prune", broken)
        assert world.send(key, "POST", "/v1/prune-jobs", json=body).status_code == 500
    assert [one.status for one in trail(world, action="POST /v1/prune-jobs")] == [500, 500]


def test_the_trail_is_read_in_pages_and_by_what_is_asked_for(world: World) -> None:
    row, admin = world.key(world.own, Scope.ADMIN)
    for _ in range(5):
        world.send(admin, "POST", "/v1/devices", json={"id": fresh()})
    seen: list[int] = []
    params: dict[str, Any] = {"limit": 2, "key_id": row.id, "status": 201}
    while True:
        page = world.send(admin, "GET", "/v1/audit", params=params).json()
        seen += [one["id"] for one in page["items"]]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert len(seen) == 5 and seen == sorted(seen, reverse=True)
    assert world.send(admin, "GET", "/v1/audit?object_id=none").json()["items"] == []
    assert problem(world.send(admin, "GET", "/v1/audit?cursor=x!")) == (422, "bad_cursor")
