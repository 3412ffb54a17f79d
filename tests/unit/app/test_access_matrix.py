"""Every route x every role x one's own and another project's things: exactly who is let in, and nothing is given away."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts
from starlette.routing import Mount

from app.auth.access import Needs
from app.main import create_app
from app.settings import Settings
from app.store.repositories import Jobs
from secateur.access_schemas import Scope
from secateur.upload_schemas import PIECE
from tests.unit.app.access_world import AGENT, LEASE, PARTS, PROFILE, Side, World, fresh, text_of

OPEN = {
    "GET /healthz",
    "GET /readyz",
    "GET /problems/{code}",
    "GET /metrics",
    "GET /login",
    "POST /login",
    "GET /v1/openapi.json",
    # Methods that these paths do not have.
    "DELETE /v1/luts/compare",
    "GET /v1/prune-jobs/validate",
}
SHARED = None
"""Instead of the status for another project's thing: it belongs to everybody."""
PART_OF_A_FILE: dict[str, Any] = {"content": b"x", "headers": {"Upload-Offset": "0", "Content-Type": PIECE}}
FULL: dict[str, Any] = {"files": {"file": ("f", b"x")}}


@dataclass(frozen=True, kw_only=True)
class Call:
    """How to ask a route for something of a side: the path's parts, the rest of the request, and the statuses."""

    scope: Scope | None
    good: int
    foreign: int | None = 404
    parts: Callable[[World, Side], dict[str, str]] = field(default=lambda world, side: {})
    more: Callable[[World, Side], dict[str, Any]] = field(default=lambda world, side: {})
    page: bool = False


def part(name: str, make: Callable[[World, Side], str]) -> Callable[[World, Side], dict[str, str]]:
    return lambda world, side: {name: make(world, side)}


def measured(world: World, side: Side) -> dict[str, str]:
    return {"measurement_id": world.measurement(side), "sha256": world.network(side)}


def pair(world: World, side: Side) -> dict[str, Any]:
    return {"params": {"a": world.lut(side), "b": world.lut(side)}}


def build(world: World, side: Side) -> dict[str, Any]:
    return {"json": {"model_id": world.inputs(side)["model_id"]}}


ENDED = part("job_id", lambda world, side: world.job(side, ended=True))
BUILD = part("build_id", lambda world, side: world.job(side, kind="lut_build"))
ENDED_BUILD = part("build_id", lambda world, side: world.job(side, kind="lut_build", ended=True))
TABLE = part("lut_id", World.lut)
DEVICE = part("device_id", World.device)
MODEL = part("model_id", lambda world, side: world.inputs(side)["model_id"])
DATASET = part("dataset_id", lambda world, side: world.inputs(side)["dataset_id"])
UPLOAD = part("upload_id", World.upload)
PROJECT = part("project_id", lambda world, side: side.project_id)
KEY = part("key_id", lambda world, side: "filled in below")
R, S, D, A, ADMIN = Scope.READ, Scope.SUBMIT, Scope.DEVICES, Scope.AGENT, Scope.ADMIN

# Where a worker would have to look, 503 says that the request got that far.
CALLS: dict[str, Call] = {
    "GET /v1/models": Call(scope=R, good=200, foreign=SHARED),
    "POST /v1/models": Call(scope=S, good=503, foreign=SHARED, more=lambda *_: FULL),
    "GET /v1/models/{model_id}": Call(scope=R, good=200, parts=MODEL),
    "DELETE /v1/models/{model_id}": Call(scope=S, good=204, parts=MODEL),
    "POST /v1/uploads": Call(
        scope=S, good=201, foreign=SHARED, more=lambda *_: {"json": {"purpose": "model", "size_bytes": 9}}
    ),
    "GET /v1/uploads/{upload_id}": Call(scope=S, good=200, parts=UPLOAD),
    "PATCH /v1/uploads/{upload_id}": Call(scope=S, good=204, parts=UPLOAD, more=lambda *_: PART_OF_A_FILE),
    "DELETE /v1/uploads/{upload_id}": Call(scope=S, good=204, parts=UPLOAD),
    "GET /v1/datasets": Call(scope=R, good=200, foreign=SHARED),
    "POST /v1/datasets": Call(scope=S, good=503, foreign=SHARED, more=lambda *_: FULL),
    "GET /v1/datasets/{dataset_id}": Call(scope=R, good=200, parts=DATASET),
    "DELETE /v1/datasets/{dataset_id}": Call(scope=S, good=204, parts=DATASET),
    "GET /v1/devices": Call(scope=R, good=200, foreign=SHARED),
    "POST /v1/devices": Call(scope=D, good=201, foreign=SHARED, more=lambda *_: {"json": {"id": fresh()}}),
    "GET /v1/devices/{device_id}": Call(scope=R, good=200, foreign=SHARED, parts=DEVICE),
    "DELETE /v1/devices/{device_id}": Call(
        scope=D, good=204, foreign=SHARED, parts=part("device_id", World.bare_device)
    ),
    "GET /v1/luts": Call(scope=R, good=200, foreign=SHARED),
    "POST /v1/luts": Call(scope=D, good=503, foreign=SHARED, more=lambda *_: FULL),
    "GET /v1/luts/compare": Call(scope=R, good=503, foreign=SHARED, more=pair),
    "GET /v1/luts/{lut_id}": Call(scope=R, good=200, foreign=SHARED, parts=TABLE),
    "DELETE /v1/luts/{lut_id}": Call(scope=D, good=204, foreign=SHARED, parts=TABLE),
    "GET /v1/luts/{lut_id}/versions": Call(scope=R, good=200, foreign=SHARED, parts=TABLE),
    "POST /v1/luts/{lut_id}/publish": Call(scope=D, good=200, foreign=SHARED, parts=TABLE),
    "POST /v1/luts/{lut_id}/unpublish": Call(scope=D, good=200, foreign=SHARED, parts=TABLE),
    "GET /v1/luts/{lut_id}/file": Call(scope=R, good=200, foreign=SHARED, parts=TABLE),
    "GET /v1/luts/{lut_id}/plots/{name}.png": Call(
        scope=R, good=503, foreign=SHARED, parts=lambda world, side: {"lut_id": world.lut(side), "name": "heatmaps"}
    ),
    "GET /v1/lut-builds": Call(scope=R, good=200, foreign=SHARED),
    "POST /v1/lut-builds": Call(scope=D, good=202, foreign=422, more=build),
    "GET /v1/lut-builds/{build_id}": Call(scope=R, good=200, parts=BUILD),
    "POST /v1/lut-builds/{build_id}/cancel": Call(scope=D, good=202, parts=BUILD),
    "POST /v1/lut-builds/{build_id}/retry": Call(scope=D, good=202, parts=ENDED_BUILD),
    "GET /v1/lut-builds/{build_id}/events": Call(scope=R, good=200, parts=ENDED_BUILD),
    "GET /v1/prune-jobs": Call(scope=R, good=200, foreign=SHARED),
    "POST /v1/prune-jobs": Call(scope=S, good=202, foreign=422, more=lambda w, s: {"json": w.spec(s)}),
    "POST /v1/prune-jobs/validate": Call(scope=S, good=503, foreign=422, more=lambda w, s: {"json": w.spec(s)}),
    "GET /v1/prune-jobs/{job_id}": Call(scope=R, good=200, parts=ENDED),
    "POST /v1/prune-jobs/{job_id}/cancel": Call(scope=S, good=202, parts=part("job_id", World.job)),
    "POST /v1/prune-jobs/{job_id}/retry": Call(scope=S, good=202, parts=ENDED),
    "GET /v1/prune-jobs/{job_id}/events": Call(scope=R, good=200, parts=ENDED),
    "GET /v1/prune-jobs/{job_id}/artifacts": Call(scope=R, good=200, parts=ENDED),
    "GET /v1/prune-jobs/{job_id}/artifacts/{name}": Call(
        scope=R, good=200, parts=lambda w, s: {"job_id": w.job(s), "name": "model.onnx"}
    ),
    "GET /v1/prune-jobs/{job_id}/plan": Call(scope=R, good=200, parts=ENDED),
    "GET /v1/prune-jobs/{job_id}/report": Call(scope=R, good=200, parts=ENDED),
    "POST /v1/agents": Call(
        scope=A, good=200, foreign=409,
        more=lambda w, s: {"json": {"agent": AGENT, "device": w.device(s), "profiles": [PROFILE]}},
    ),
    "POST /v1/agents/{device_id}/lease": Call(
        scope=A, good=204, foreign=409, parts=DEVICE, more=lambda *_: {"json": LEASE}
    ),
    "PUT /v1/measurements/{measurement_id}/progress": Call(
        scope=A, good=204, parts=measured, more=lambda *_: {"json": {"agent": AGENT}}
    ),
    "POST /v1/measurements/{measurement_id}/result": Call(
        scope=A, good=204, parts=measured, more=lambda *_: {"json": {"agent": AGENT, "step": 8}}
    ),
    "GET /v1/measurements/{measurement_id}/files/{sha256}": Call(scope=A, good=200, parts=measured),
    "GET /v1/projects": Call(scope=ADMIN, good=200, foreign=SHARED),
    "POST /v1/projects": Call(scope=ADMIN, good=201, foreign=SHARED, more=lambda *_: {"json": {"name": fresh()}}),
    "GET /v1/projects/{project_id}": Call(scope=ADMIN, good=200, parts=PROJECT),
    "PATCH /v1/projects/{project_id}": Call(scope=ADMIN, good=200, parts=PROJECT, more=lambda *_: {"json": {}}),
    "GET /v1/api-keys": Call(scope=None, good=200, foreign=SHARED),
    "POST /v1/api-keys": Call(
        scope=None, good=201, foreign=422,
        more=lambda w, s: {"json": {"name": s.mark, "scopes": ["read"], "project_id": s.project_id}},
    ),
    "GET /v1/api-keys/{key_id}": Call(scope=None, good=200, parts=KEY),
    "POST /v1/api-keys/{key_id}/revoke": Call(scope=None, good=200, parts=KEY),
    "GET /v1/audit": Call(scope=ADMIN, good=200, foreign=SHARED),
    "GET /v1/whoami": Call(scope=None, good=200, foreign=SHARED),
    "GET /": Call(scope=R, good=200, foreign=SHARED, page=True),
    "GET /jobs/{job_id}": Call(scope=R, good=200, parts=ENDED, page=True),
    "GET /luts/{lut_id}": Call(scope=R, good=200, foreign=SHARED, parts=TABLE, page=True),
    "POST /logout": Call(scope=None, good=303, foreign=SHARED),
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("matrix"))
    with world.client:
        world.fill()
        yield world


def routes(settings: Settings) -> dict[str, Any]:
    """Every route by its method and path, whatever it is: only mounted files are none."""
    found = {}
    for context in iter_route_contexts(create_app(settings).routes):
        if not isinstance(context.original_route, Mount):
            for method in (context.methods or set()) - {"HEAD"}:
                found[f"{method} {context.path}"] = context
    return found


def test_every_route_asks_for_a_scope_and_is_tried_below(settings: Settings) -> None:
    found = routes(settings)
    assert set(found) == set(CALLS) | OPEN and not set(CALLS) & OPEN
    for name, route in found.items():
        if name not in OPEN:
            asked = [need.call for need in route.dependant.dependencies if isinstance(need.call, Needs)]
            assert [need.scope for need in asked] == [CALLS[name].scope], name
            first = route.dependant.dependencies[0].call
            assert first is asked[0], f"{name}: nothing is looked at before the key"


def ask(world: World, name: str, key: str | None, side: Side, key_id: str = "") -> Any:
    call, (method, path) = CALLS[name], name.split(" ")
    parts = call.parts(world, side)
    if "key_id" in parts:
        parts["key_id"] = key_id
    return world.send(key, method, path.format(**parts), **call.more(world, side))


@pytest.mark.parametrize("name", CALLS)
def test_who_has_no_key_that_counts_is_let_in_nowhere(world: World, name: str) -> None:
    call = CALLS[name]
    bad = [None, "", "sct_aaaaaaaa_" + "a" * 43, world.ended_key(world.own, revoked=False), world.ended_key(world.own, revoked=True)]  # fmt: skip
    for key in bad:
        answer = ask(world, name, key, world.own, key_id="key_x")
        if call.page:
            assert (answer.status_code, answer.headers["location"][:12]) == (303, "/login?next=")
        else:
            code = "key_refused" if key else "key_required"
            assert (answer.status_code, answer.json()["code"]) == (401, code), answer.text
            assert answer.headers["www-authenticate"].startswith("Bearer")
        assert world.own.mark not in text_of(answer)


@pytest.mark.parametrize("name", CALLS)
def test_a_key_opens_what_its_scope_is_for_and_only_its_own_projects_things(world: World, name: str) -> None:
    call = CALLS[name]
    for scopes in (*((scope,) for scope in PARTS), PARTS, (ADMIN,)):
        for side in (world.own, world.other):
            asker, text = world.key(world.own, *scopes)
            admin, foreign = ADMIN in scopes, side is world.other
            child, _ = world.key(side, R, maker=None if foreign else asker)
            answer = ask(world, name, text, side, key_id=child.id)
            expected = call.good
            if call.scope is not None and call.scope not in scopes and not admin:
                expected = 403
            elif name == "POST /v1/api-keys" and R not in scopes and not admin:
                expected = 403  # nobody gives what they lack
            elif foreign and call.foreign is not SHARED and not admin:
                expected = call.foreign
            where = f"{name} of {side.mark} by {scopes}: {answer.text[:300]}"
            assert answer.status_code == expected, where
            assert text not in text_of(answer)
            if expected == 403:
                assert answer.json()["code"] == "scope_missing"
            if not admin:
                assert not given_away(world, answer), where


@pytest.mark.parametrize("name", [name for name, call in CALLS.items() if call.foreign == 404 and call.scope != ADMIN])
def test_another_projects_thing_looks_exactly_like_none(world: World, name: str) -> None:
    _, key = world.key(world.own, *PARTS)
    call, (method, path) = CALLS[name], name.split(" ")
    parts = call.parts(world, world.other)
    if "key_id" in parts:
        parts["key_id"] = world.key(world.other, R)[0].id
    variable, there = next(iter(parts.items()))
    answers = []
    for value in (there, there[:4] + "0" * (len(there) - 4)):
        filled = path.format(**{**parts, variable: value})
        answer = world.send(key, method, filled, **call.more(world, world.other))
        headers = {key: text for key, text in answer.headers.items() if key != "x-request-id"}
        answers.append((answer.status_code, answer.text.replace(value, "ID"), headers))
    assert answers[0] == answers[1] and answers[0][0] == 404


def given_away(world: World, answer: Any) -> list[str]:
    """What an answer tells a key of `own` about `other`: its names, and ids of its jobs that the request did not name."""
    with world.services.database.read() as session:
        jobs = [
            row.id
            for kind in ("prune", "lut_build")
            for row in Jobs(session).page(kind=kind, project_id=world.other.project_id, limit=200).rows
        ]
    named = str(answer.request.url)
    return [secret for secret in (world.other.mark, *jobs) if secret in text_of(answer) and secret not in named]
