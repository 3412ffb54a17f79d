"""Keys: told once, kept as a hash, ended at once, and no way to what is another project's."""

import re
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text as sql
from sqlalchemy import update

from app.auth import keys as auth_keys
from app.auth import recent
from app.auth.keys import make_first
from app.migrate import migrate
from app.settings import Settings
from app.store.models import ApiKeyRow
from app.store.repositories import Audit, Jobs, Keys, Models, Projects
from app.store.sessions import Database
from secateur.access_schemas import Scope
from tests.unit.app.access_world import AGENT, LEASE, PROFILE, World, fresh, problem, text_of, trail

ROOT = Path(__file__).parents[3]
KEY = re.compile(r"sct_[a-z2-7]{8}_[A-Za-z0-9_-]{43}")


def make(world: World, key: str, **fields: Any) -> Any:
    return world.send(key, "POST", "/v1/api-keys", json={"name": "n", **fields})


def test_a_key_is_told_once_and_kept_nowhere(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    _, admin = world.key(world.own, Scope.ADMIN)
    made = make(world, admin, project_id=world.other.project_id, scopes=["read", "agent"])
    body = made.json()
    assert made.status_code == 201 and made.headers["cache-control"] == "no-store"
    assert KEY.fullmatch(body["key"]) and body["key"].startswith(body["prefix"] + "_") and not body["derived"]
    assert made.headers["location"] == f"/v1/api-keys/{body['id']}"
    who = world.send(body["key"], "GET", "/v1/whoami").json()
    assert (who["project"]["id"], who["scopes"], who["auth"]) == (world.other.project_id, ["agent", "read"], True)
    world.send(body["key"], "GET", f"/v1/models/{body['key']}")
    for path in ("/v1/api-keys", f"/v1/api-keys/{body['id']}", "/v1/audit?limit=200", "/v1/whoami", "/"):
        assert body["key"][13:] not in text_of(world.send(admin, "GET", path)).replace(body["key"], "", 1)
    secret = body["key"][13:]
    with world.services.database.read() as session:
        for table in ("api_key", "audit", "idempotency_key", "project"):
            assert secret not in str(session.execute(sql(f"SELECT * FROM {table}")).all()), table
    said = "".join(capfd.readouterr())
    assert secret not in said.replace(f"/v1/models/{body['key']}", "")


def test_a_key_gives_no_more_than_it_has_and_takes_its_children_with_it(world: World) -> None:
    end = datetime.now(UTC) + timedelta(hours=2)
    with world.services.database.write() as session:
        parent, text = auth_keys.issue(
            session, project_id=world.own.project_id, name="p", scopes={Scope.READ, Scope.SUBMIT}, expires_at=end
        )
    assert problem(make(world, text, scopes=["devices"])) == (403, "scope_missing")
    assert problem(make(world, text, scopes=["admin"])) == (403, "scope_missing")
    assert problem(make(world, text, scopes=["read"], project_id="default")) == (422, "unknown_project")
    assert problem(make(world, text, scopes=["read"], project_id="prj_none")) == (422, "unknown_project")
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    assert problem(make(world, text, scopes=["read"], expires_at=past)) == (422, "invalid_request")
    late = (end + timedelta(days=9)).isoformat()
    child = make(world, text, scopes=["read"], expires_at=late).json()
    assert child["derived"] and child["created_by"] == parent.id
    assert datetime.fromisoformat(child["expires_at"]) == end
    grandchild = make(world, child["key"], scopes=["read"]).json()
    seen = [one["id"] for one in world.send(text, "GET", "/v1/api-keys").json()["items"]]
    assert seen == [child["id"], parent.id]
    assert world.send(grandchild["key"], "GET", "/v1/models").status_code == 200
    # A child cannot end its parent: for it there is no such key.
    assert problem(world.send(child["key"], "POST", f"/v1/api-keys/{parent.id}/revoke")) == (404, "not_found")
    ended = world.send(text, "POST", f"/v1/api-keys/{parent.id}/revoke")
    assert ended.status_code == 200 and ended.json()["revoked_at"]
    for key in (text, child["key"], grandchild["key"]):
        answer = world.send(key, "GET", "/v1/models")
        assert problem(answer) == (401, "key_refused") and "revoked" in answer.json()["detail"]


def test_keys_an_administrator_makes_outlive_the_administrators(world: World) -> None:
    admin, text = world.key(world.own, Scope.ADMIN)
    team = make(world, text, scopes=["read"], project_id=world.other.project_id).json()
    assert world.send(text, "POST", f"/v1/api-keys/{admin.id}/revoke").status_code == 200
    assert world.send(team["key"], "GET", "/v1/whoami").status_code == 200


def test_no_child_is_born_to_a_key_that_is_being_revoked(world: World) -> None:
    made: list[Any] = []

    def derive(text: str) -> None:
        made.append(make(world, text, scopes=["read"]))

    for _ in range(5):
        parent, text = world.key(world.own, Scope.READ)
        revoke = (text, "POST", f"/v1/api-keys/{parent.id}/revoke")
        threads = [threading.Thread(target=derive, args=(text,)) for _ in range(3)]
        threads.append(threading.Thread(target=world.send, args=revoke))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {answer.status_code for answer in made} <= {201, 401}
    for answer in made:
        if answer.status_code == 201:
            assert world.send(answer.json()["key"], "GET", "/v1/models").status_code == 401


def test_the_use_of_a_key_is_noted_once_a_minute(world: World) -> None:
    row, text = world.key(world.own, Scope.READ)

    def used() -> datetime | None:
        with world.services.database.read() as session:
            found = Keys(session).get(row.id)
            assert found is not None
            return found.last_used_at

    assert used() is None
    world.send(text, "GET", "/v1/models")
    first = used()
    world.send(text, "GET", "/v1/models")
    assert first is not None and used() == first
    with world.services.database.write() as session:
        session.execute(update(ApiKeyRow).values(last_used_at=first - timedelta(seconds=61)))
    world.send(text, "GET", "/v1/models")
    assert (used() or first) > first - timedelta(seconds=61)


def test_keys_are_compared_in_constant_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []
    honest = auth_keys.hmac.compare_digest
    monkeypatch.setattr(auth_keys.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or honest(a, b))
    _, text = world.key(world.own, Scope.READ)
    wrong_secret, wrong_prefix = text[:-1] + ("a" if text[-1] != "a" else "b"), "sct_aaaaaaaa" + text[12:]
    for key, status in ((text, 200), (wrong_secret, 401), (wrong_prefix, 401)):
        assert world.send(key, "GET", "/v1/models").status_code == status
    assert len(compared) == 3 and all(len(a) == len(b) == 64 for a, b in compared)


def test_an_idempotency_key_is_its_projects_own(world: World) -> None:
    ids = []
    for side in (world.own, world.other):
        _, key = world.key(side, Scope.SUBMIT)
        body = world.spec(side)
        for _ in range(2):
            answer = world.send(key, "POST", "/v1/prune-jobs", json=body, headers={"Idempotency-Key": "k"})
            assert answer.status_code == 202
            ids.append(answer.json()["id"])
    assert ids[0] == ids[1] != ids[2] == ids[3]


def test_a_job_of_an_administrator_belongs_to_the_project_of_its_model(world: World) -> None:
    _, admin = world.key(world.own, Scope.ADMIN)
    _, reader = world.key(world.other, Scope.READ)
    made = world.send(admin, "POST", "/v1/prune-jobs", json=world.spec(world.other)).json()
    assert world.send(reader, "GET", f"/v1/prune-jobs/{made['id']}").status_code == 200
    mixed = {**world.spec(world.other), "dataset_id": world.inputs(world.own)["dataset_id"]}
    assert problem(world.send(admin, "POST", "/v1/prune-jobs", json=mixed)) == (422, "unknown_dataset")


def test_another_projects_jobs_are_counted_but_not_named(world: World) -> None:
    _, keeper = world.key(world.own, Scope.DEVICES, Scope.READ)
    lut_id, job_id = world.lut(world.other), world.job(world.other)
    (version,) = world.send(keeper, "GET", f"/v1/luts/{lut_id}/versions").json()["items"]
    assert version["source"] == "job" and version["job_id"] is None
    refusal = world.send(keeper, "DELETE", "/v1/devices/local")
    assert problem(refusal) == (409, "device_in_use") and job_id not in refusal.text
    page = world.send(keeper, "GET", f"/luts/{lut_id}").text
    assert "another project" in page and "job_" not in page
    _, owner = world.key(world.other, Scope.READ)
    (version,) = world.send(owner, "GET", f"/v1/luts/{lut_id}/versions").json()["items"]
    assert version["job_id"] and version["job_id"] in world.send(owner, "GET", f"/luts/{lut_id}").text


def test_blobs_are_shared_and_stay_while_any_project_needs_them(world: World) -> None:
    with world.services.database.write() as session:
        blob = world.services.blobs.put_bytes(b"the same network")
        ids = [
            Models(session).add(
                name="m", arch="onnx", sha256=blob.sha256, size_bytes=1, num_parameters=1, num_outputs=1,
                input_shape=None, class_names=None, project_id=side.project_id,
            ).id
            for side in (world.own, world.other)
        ]  # fmt: skip
    for side, model_id, left in ((world.own, ids[0], True), (world.other, ids[1], False)):
        _, key = world.key(side, Scope.SUBMIT)
        assert world.send(key, "DELETE", f"/v1/models/{model_id}").status_code == 204
        assert world.services.blobs.exists(blob.sha256) is left


def test_a_key_that_another_process_ended_a_moment_ago_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "TRUSTED_S", 3600.0)
    row, key = world.key(world.own, Scope.SUBMIT)
    body, again = world.spec(world.own), {"Idempotency-Key": "once"}
    job_id = world.send(key, "POST", "/v1/prune-jobs", json=body, headers=again).json()["id"]
    assert world.services.recent.get(key)
    with world.services.database.write() as session:
        Keys(session).revoke(row.id)
    for headers in ({}, again):
        assert problem(world.send(key, "POST", "/v1/prune-jobs", json=body, headers=headers)) == (401, "key_refused")
    assert problem(world.send(key, "POST", f"/v1/prune-jobs/{job_id}/cancel")) == (401, "key_refused")
    assert problem(world.send(key, "DELETE", f"/v1/models/{body['model_id']}")) == (401, "key_refused")
    with world.services.database.read() as session:
        assert [one.id for one in Jobs(session).page(project_id=world.own.project_id).rows] == [job_id]
        assert Jobs(session).page(project_id=world.own.project_id).rows[0].status == "queued"
    assert [one.status for one in trail(world, key_id=row.id)] == [401, 401, 401, 202]


def test_keys_and_limits_that_are_changed_here_count_at_once(world: World) -> None:
    _, admin = world.key(world.own, Scope.ADMIN)
    row, key = world.key(world.own, Scope.SUBMIT)
    assert world.send(key, "POST", "/v1/prune-jobs", json=world.spec(world.own)).status_code == 202
    path = f"/v1/projects/{world.own.project_id}"
    assert world.send(admin, "PATCH", path, json={"limits": {"max_active_jobs": 1}}).status_code == 200
    refused = world.send(key, "POST", "/v1/prune-jobs", json=world.spec(world.own))
    assert problem(refused) == (429, "job_quota") and world.services.recent.get(key)
    assert world.send(admin, "POST", f"/v1/api-keys/{row.id}/revoke").status_code == 200
    assert not world.services.recent.get(key)


def test_lately_used_keys_are_forgotten_after_a_second_and_when_there_are_many(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key = world.key(world.own, Scope.SUBMIT)
    with world.services.database.read() as session:
        found = auth_keys.identify(session, key)
    known = recent.RecentKeys()
    known.put(key, found)
    assert known.get(key) is found and known.get(key + "x") is None
    monkeypatch.setattr(recent, "TRUSTED_S", 0.0)
    assert known.get(key) is None
    monkeypatch.setattr(recent, "MOST", 3)
    for number in range(10):
        known.put(str(number), found)
        assert len(known._found) <= 3


def test_a_stream_ends_when_its_key_does(world: World) -> None:
    object.__setattr__(world.settings, "events_heartbeat_s", 0.2)
    row, key = world.key(world.own, Scope.READ)
    job_id = world.job(world.own)

    def used() -> bool:
        with world.services.database.read() as session:
            found = Keys(session).get(row.id)
            return found is not None and found.last_used_at is not None

    def revoke() -> None:
        while not used():
            time.sleep(0.05)
        time.sleep(1.0)  # the stream has begun by then
        with world.services.database.write() as session:
            Keys(session).revoke(row.id)

    revoker = threading.Thread(target=revoke)
    revoker.start()
    stream = world.send(key, "GET", f"/v1/prune-jobs/{job_id}/events")
    assert stream.status_code == 200 and '"queued"' in stream.text
    revoker.join()


def test_an_agent_may_not_take_the_name_of_another_projects_device(world: World) -> None:
    _, key = world.key(world.own, Scope.AGENT)
    device = world.device(world.other)
    hello = {"agent": AGENT, "device": device, "profiles": [PROFILE]}
    refusal = world.send(key, "POST", "/v1/agents", json=hello)
    assert problem(refusal) == (409, "device_exists") and "another project" in refusal.json()["detail"]
    assert problem(world.send(key, "POST", f"/v1/agents/{device}/lease", json=LEASE)) == (409, "device_exists")
    _, theirs = world.key(world.other, Scope.AGENT)
    assert world.send(theirs, "POST", "/v1/agents", json=hello).status_code == 200


def test_the_first_start_makes_one_administrator_however_many_start(tmp_path: Path, empty_url: str) -> None:
    settings = Settings(home=tmp_path, database_url=empty_url, auth="keys")
    migrate(settings)
    made: list[str | None] = []
    threads = [threading.Thread(target=lambda: made.append(make_first(settings))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (first,) = [key for key in made if key]
    assert KEY.fullmatch(first) and make_first(settings) is None
    database = Database(settings.url)
    with database.write() as session:
        (row,) = Keys(session).page().rows
        assert row.scopes == ["admin"] and row.created_by is None
        assert [one.object_id for one in Audit(session).page(wanted={"action": "make a key"}).rows] == [row.id]
        # One that was revoked is not replaced: whoever has the database makes another.
        Keys(session).revoke(row.id)
    database.close()
    assert make_first(settings) is None


def test_the_first_key_is_printed_once_and_a_shell_makes_another(tmp_path: Path) -> None:
    environment = {"SECATEUR_HOME": str(tmp_path / "home"), "SECATEUR_PORT": "0", "SECATEUR_AUTH": "keys"}
    said = []
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-m", "app"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert process.stdout is not None and process.stdout.readline().startswith("Secateur listens")
        process.terminate()
        out, err = process.communicate(timeout=30)
        said.append(KEY.findall(out + err))
    assert [len(found) for found in said] == [1, 0]
    command = [sys.executable, "-m", "app.auth", "--scope", "read", "--scope", "agent"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0 and KEY.fullmatch(run.stdout.strip()), run.stderr
    run = subprocess.run(
        [*command, "--project", "none"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 2 and "no project" in run.stderr


def test_without_keys_everybody_is_the_administrator_of_the_default_project(tmp_path: Path) -> None:
    world = World(tmp_path, auth="off")
    with world.client:
        world.fill()
        who = world.client.get("/v1/whoami").json()
        assert (who["auth"], who["scopes"], who["project"]["id"], who["key"]) == (False, ["admin"], "default", None)
        assert world.client.get("/login").headers["location"] == "/"
        device = fresh()
        assert world.client.post("/v1/devices", json={"id": device}).status_code == 201
        (row,) = trail(world, object_id=device)
        assert (row.key_id, row.project_id, row.status) == (None, "default", 201)


def test_a_name_belongs_to_one_project(world: World) -> None:
    _, admin = world.key(world.own, Scope.ADMIN)
    made = world.send(admin, "POST", "/v1/projects", json={"name": "team", "limits": {"max_active_jobs": 3}})
    assert made.status_code == 201
    project = made.json()
    assert project["limits"]["max_active_jobs"] == 3 and project["limits"]["max_stored_bytes"] is None
    assert problem(world.send(admin, "POST", "/v1/projects", json={"name": "team"})) == (409, "project_exists")
    path = f"/v1/projects/{project['id']}"
    assert problem(world.send(admin, "PATCH", path, json={"name": world.own.mark})) == (409, "project_exists")
    changed = world.send(admin, "PATCH", path, json={"limits": {"max_stored_bytes": 5}}).json()
    assert (changed["limits"]["max_active_jobs"], changed["limits"]["max_stored_bytes"]) == (None, 5)
    assert problem(world.send(admin, "PATCH", path, json={"limits": {"max_jobs": 5}})) == (422, "invalid_request")
    with world.services.database.read() as session:
        ids = [row.id for row in Projects(session).page().rows]
    assert ids[0] == project["id"] and "default" in ids
