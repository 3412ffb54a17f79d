"""What no honest client sends is refused as what it is, never with a 500, on either database."""

import json
from typing import Any

import pytest

from secateur.access_schemas import Scope
from tests.unit.app.access_world import PARTS, World, problem

NUL, HALF = r"a\u0000b", r"\ud800"


def test_a_nul_in_the_address_is_refused_before_anything_is_looked_up(world: World) -> None:
    _, key = world.key(world.own, Scope.ADMIN)
    for path in (
        "/v1/models/%00", "/v1/luts/a%00b", "/v1/projects/%00", "/v1/uploads/%00", "/jobs/%00", "/%00", "/static/%00",
        "/v1/audit?project_id=%00", "/v1/luts?device=%00", "/v1/luts/compare?a=%00&b=x", "/v1/api-keys?project=%25%00",
    ):  # fmt: skip
        assert problem(world.send(key, "GET", path)) == (400, "malformed_request"), path


@pytest.mark.parametrize("text", [NUL, HALF])
def test_text_that_no_database_keeps_is_refused_where_it_stands(world: World, text: str) -> None:
    _, key = world.key(world.own, Scope.ADMIN)
    spec = world.spec(world.own)
    build = {"model_id": spec["model_id"], "image_size": 32}
    bodies: list[tuple[str, dict[str, Any]]] = [
        *(("/v1/prune-jobs", {**spec, name: "@"}) for name in ("name", "model_id", "dataset_id", "device")),
        *(("/v1/prune-jobs", {**spec, name: ["@"]}) for name in ("classes", "after", "keep_dense")),
        ("/v1/prune-jobs", {**spec, "min_widths": {"@": 1}}),
        ("/v1/prune-jobs", {**spec, "@": 1}),
        *(("/v1/lut-builds", {**build, name: "@"}) for name in ("name", "device", "dataset_id")),
        ("/v1/projects", {"name": "@"}),
        *(("/v1/api-keys", {"name": "k", **more}) for more in ({"name": "@"}, {"project_id": "@"})),
        *(("/v1/devices", {"id": "d", name: "@"}) for name in ("name", "hardware", "runtime", "runtime_version")),
    ]
    for path, body in bodies:
        content = json.dumps(body).replace('"@"', f'"{text}"')
        answer = world.send(key, "POST", path, content=content, headers={"Content-Type": "application/json"})
        assert problem(answer) == (422, "invalid_request"), f"{content}: {answer.text}"
        assert answer.json()["errors"], content


@pytest.mark.parametrize("value", ['"5"', "true", "0.5"])
def test_numbers_of_a_body_are_taken_for_nothing_but_what_they_are(world: World, value: str) -> None:
    _, key = world.key(world.own, Scope.ADMIN)
    spec = world.spec(world.own)
    lease = {"agent": "0" * 32, "fingerprint": ""}
    bodies: list[tuple[str, dict[str, Any]]] = [
        *(("/v1/prune-jobs", {**spec, name: "@"}) for name in ("seed", "sweep", "threads", "priority")),
        ("/v1/prune-jobs", {**spec, "classes": ["@"]} if value != '"5"' else {**spec, "sweep": "@"}),
        ("/v1/prune-jobs", {**spec, "baselines": "@"} if value != "true" else {**spec, "budgets": ["@"]}),
        ("/v1/prune-jobs", {**spec, "finetune": {"max_epochs": "@"}}),
        ("/v1/lut-builds", {"model_id": spec["model_id"], "image_size": "@"}),
        ("/v1/projects", {"name": "p", "limits": {"max_active_jobs": "@"}}),
        ("/v1/uploads", {"purpose": "model", "size_bytes": "@"}),
        ("/v1/api-keys", {"name": "k", "scopes": ["read"], "expires_at": "@"}),
        ("/v1/agents/local/lease", {**lease, "wait_s": "@"} if value != "0.5" else {**lease, "wait_s": "0.5"}),
    ]
    for path, body in bodies:
        content = json.dumps(body).replace('"@"', value)
        answer = world.send(key, "POST", path, content=content, headers={"Content-Type": "application/json"})
        assert problem(answer) == (422, "invalid_request"), f"{content}: {answer.text}"


def test_a_key_that_ends_after_all_time_is_refused(world: World) -> None:
    _, key = world.key(world.own, *PARTS)
    for moment, status in (("9999-12-31T23:59:59-23:59", 422), ("9998-12-30T23:59:59-23:59", 201)):
        answer = world.send(key, "POST", "/v1/api-keys", json={"name": "k", "scopes": ["read"], "expires_at": moment})
        assert answer.status_code == status, answer.text
