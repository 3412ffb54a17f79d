"""Nobody gets more than their share, however many of their requests race; and everybody hears when to come again."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.auth.keys import issue
from app.auth.limits import RateLimiter, check_bytes, check_jobs, network
from app.errors import ApiProblem
from app.store.models import DEFAULT_PROJECT
from app.store.repositories import Audit, Jobs, Models, Projects
from secateur.access_schemas import Scope
from tests.unit.app.access_world import World, fresh, problem


@contextmanager
def started(folder: Path, **settings: Any) -> Iterator[World]:
    world = World(folder, **settings)
    with world.client:
        world.fill()
        yield world


def at_once(act: Callable[[], Any], num_times: int) -> list[Any]:
    """What `act` returned in so many threads that begin together."""
    together, results = threading.Barrier(num_times), []

    def run() -> None:
        together.wait()
        results.append(act())

    threads = [threading.Thread(target=run) for _ in range(num_times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_a_key_has_its_requests_a_minute_and_hears_when_to_come_again(tmp_path: Path) -> None:
    with started(tmp_path, max_requests_per_minute=5) as world:
        (_, one), (_, other) = (world.key(world.own, Scope.READ) for _ in range(2))
        answers = [world.send(one, "GET", "/v1/models") for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200] * 5
        assert answers[0].headers["ratelimit-policy"] == '"requests";q=5;w=60'
        assert [answer.headers["ratelimit"].split(";")[1] for answer in answers] == ["r=4", "r=3", "r=2", "r=1", "r=0"]
        refusal = world.send(one, "GET", "/v1/models")
        assert problem(refusal) == (429, "rate_limited")
        assert 1 <= int(refusal.headers["retry-after"]) <= 60 and ";r=0;" in refusal.headers["ratelimit"]
        assert world.send(other, "GET", "/v1/models").status_code == 200
        assert world.client.get("/healthz").status_code == 200
        with world.services.database.read() as session:
            assert Audit(session).page(wanted={"status": 429}).rows == []


def test_keys_that_a_key_makes_share_its_requests(tmp_path: Path) -> None:
    with started(tmp_path, max_requests_per_minute=6) as world:
        row, key = world.key(world.own, Scope.READ, Scope.SUBMIT)
        child, child_key = world.key(world.own, Scope.READ, Scope.SUBMIT, maker=row)
        _, grandchild_key = world.key(world.own, Scope.READ, maker=child)
        (admin, _), (_, other) = world.key(world.own, Scope.ADMIN), world.key(world.own, Scope.READ)
        sent = [world.send(one, "GET", "/v1/models").status_code for one in (key, child_key, grandchild_key) * 3]
        assert sent == [200] * 6 + [429] * 3
        assert world.send(other, "GET", "/v1/models").status_code == 200
        with world.services.database.write() as session:
            # What an administrator makes for others stands on its own.
            _, made = issue(session, project_id=world.own.project_id, name="n", scopes={Scope.READ}, maker=admin)
        assert world.send(made, "GET", "/v1/models").headers["ratelimit"].split(";")[1] == "r=5"


def test_of_an_ipv6_address_the_network_of_one_host_is_counted() -> None:
    limiter = RateLimiter()
    for host in ("1", "2", "ffff:ffff:ffff:ffff"):
        limiter.refusals(f"2001:db8:0:1:{host if ':' in host else f':{host}'}", 3)
    assert not limiter.refusals("2001:db8:0:1:a:b:c:d", 3).allowed
    assert limiter.refusals("2001:db8:0:2::1", 3).allowed
    assert network("2001:db8:0:1:a:b:c:d") == "2001:db8:0:1::/64"
    assert network("::ffff:192.0.2.7") == network("192.0.2.7") == "192.0.2.7" and network("testclient") == "testclient"


def test_of_requests_that_race_exactly_the_allowed_ones_pass() -> None:
    limiter = RateLimiter()
    passed = at_once(lambda: sum(limiter.requests("k", 40).allowed for _ in range(10)), 16)
    assert sum(passed) == 40
    assert limiter.requests("k", 0).allowed and limiter.requests("other", 40).allowed


def test_uploads_are_counted_by_the_hour_and_a_project_may_have_its_own_rates(tmp_path: Path) -> None:
    with started(tmp_path, max_uploads_per_hour=2) as world:
        file = {"file": ("f", b"x")}
        (_, admin), (_, key), (_, free) = (
            world.key(world.own, Scope.ADMIN), world.key(world.own, Scope.SUBMIT), world.key(world.other, Scope.SUBMIT)
        )  # fmt: skip
        paths = ("/v1/models", "/v1/datasets", "/v1/models")
        sent = [world.send(key, "POST", path, files=file).status_code for path in paths]
        assert sent == [503, 503, 429]
        limits = {"limits": {"max_uploads_per_hour": 0, "max_requests_per_minute": 3}}
        path = f"/v1/projects/{world.other.project_id}"
        assert world.send(admin, "PATCH", path, json=limits).status_code == 200
        assert [world.send(free, "POST", path, files=file).status_code for path in paths] == [503] * 3
        assert problem(world.send(free, "GET", "/v1/whoami")) == (429, "rate_limited")


def test_without_keys_each_address_is_counted(tmp_path: Path) -> None:
    with started(tmp_path, auth="off", max_requests_per_minute=2) as world:
        assert [world.client.get("/v1/models").status_code for _ in range(3)] == [200, 200, 429]


def test_strangers_fill_no_disk_and_lock_nobody_out(tmp_path: Path) -> None:
    with started(tmp_path, max_refusals_per_minute=3) as world:
        _, key = world.key(world.own, Scope.READ)
        wrong = "sct_aaaaaaaa_" + "a" * 43
        sent = [world.send(wrong, "GET", "/v1/models").status_code for _ in range(4)]
        assert sent == [401, 401, 401, 429]
        refusal = world.send(None, "POST", "/login", data={"key": wrong})
        assert problem(refusal) == (429, "rate_limited") and refusal.headers["retry-after"]
        assert world.send(None, "GET", "/", headers={"Host": "evil.example.com"}).status_code == 403
        assert world.send(key, "GET", "/v1/models").status_code == 200
        with world.services.database.read() as session:
            assert len(Audit(session).page(wanted={"key_id": None}).rows) == 3


def limit(world: World, **limits: int) -> None:
    with world.services.database.write() as session:
        row = Projects(session).get(world.own.project_id, lock=True)
        assert row is not None
        row.limits = dict(limits)


def test_jobs_that_race_fill_the_quota_and_never_pass_it(world: World) -> None:
    limit(world, max_active_jobs=4)
    _, key = world.key(world.own, Scope.SUBMIT, Scope.DEVICES, Scope.READ)
    _, other = world.key(world.other, Scope.SUBMIT)
    body = world.spec(world.own)

    def submit() -> Any:
        return world.send(key, "POST", "/v1/prune-jobs", json=body)

    answers = at_once(submit, 10)
    refused = [answer for answer in answers if answer.status_code != 202]
    assert len(refused) == 6 and {problem(answer) for answer in refused} == {(429, "job_quota")}
    assert all(answer.headers["retry-after"] for answer in refused)
    build = {"model_id": body["model_id"]}
    assert problem(world.send(key, "POST", "/v1/lut-builds", json=build)) == (429, "job_quota")
    assert world.send(other, "POST", "/v1/prune-jobs", json=world.spec(world.other)).status_code == 202
    job_id = next(answer.json()["id"] for answer in answers if answer.status_code == 202)
    assert world.send(key, "POST", f"/v1/prune-jobs/{job_id}/cancel").status_code == 202
    assert submit().status_code == 202
    assert problem(world.send(key, "POST", f"/v1/prune-jobs/{job_id}/retry")) == (429, "job_quota")
    usage = world.send(key, "GET", "/v1/whoami").json()
    assert (usage["project"]["num_active_jobs"], usage["limits"]["max_active_jobs"]) == (4, 4)


def test_one_request_sent_many_times_takes_one_place(world: World) -> None:
    limit(world, max_active_jobs=1)
    _, key = world.key(world.own, Scope.SUBMIT)
    body = world.spec(world.own)
    same = {"Idempotency-Key": "k"}
    answers = at_once(lambda: world.send(key, "POST", "/v1/prune-jobs", json=body, headers=same), 6)
    assert {(answer.status_code, answer.json()["id"]) for answer in answers} == {(202, answers[0].json()["id"])}


def test_bytes_that_race_fill_the_quota_and_never_pass_it(world: World) -> None:
    limit(world, max_stored_bytes=1000)
    services, project_id = world.services, world.own.project_id

    def store() -> bool:
        try:
            with services.database.write() as session:
                check_bytes(session, services.settings, project_id, 300)
                Models(session).add(
                    name=fresh(), arch="onnx", sha256="a" * 64, size_bytes=300, num_parameters=1, num_outputs=1,
                    input_shape=None, class_names=None, project_id=project_id,
                )  # fmt: skip
        except ApiProblem as refusal:
            assert (refusal.status_code, refusal.problem.code) == (403, "storage_quota")
            return False
        return True

    assert sum(at_once(store, 10)) == 3
    with services.database.read() as session:
        assert Projects(session).stored_bytes(project_id) == 900
        check_bytes(session, services.settings, project_id, 100, lock=False)
        check_bytes(session, services.settings, world.other.project_id, 10**9, lock=False)
        check_bytes(session, services.settings, DEFAULT_PROJECT, 10**9, lock=False)


def test_an_upload_that_cannot_fit_is_refused_before_it_is_received(tmp_path: Path) -> None:
    with started(tmp_path, max_stored_bytes=1000, max_body_bytes=1024) as world:
        _, key = world.key(world.own, Scope.SUBMIT)
        for size_bytes, status in ((900, 503), (3000, 403)):  # the first got as far as a worker, of which there is none
            sent = world.send(key, "POST", "/v1/datasets", files={"file": ("d.zip", b"x" * size_bytes)})
            assert sent.status_code == status


def test_what_a_project_stores_is_all_that_it_named(world: World) -> None:
    job_id = world.job(world.own)
    size_bytes = len(world.own.mark)
    with world.services.database.read() as session:
        files = 4 * len(f"file of {world.own.mark}")
        assert Projects(session).stored_bytes(world.own.project_id) == 2 * size_bytes + files
        assert Projects(session).stored_bytes(world.other.project_id) == 0
        usage = Projects(session).usage([world.own.project_id, DEFAULT_PROJECT])
        assert usage[world.own.project_id].num_active_jobs == 1 and usage[DEFAULT_PROJECT].stored_bytes == 0
        check_jobs(session, world.settings, world.own.project_id)
        assert Jobs(session).of_project([job_id], world.other.project_id) == set()
        assert Jobs(session).of_project([job_id, "job_none"], None) == {job_id}
