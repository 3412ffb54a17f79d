"""Every failure is problem+json with a stable code."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlalchemy.exc import OperationalError

from app.errors import ApiProblem
from app.handlers import pointer
from app.main import create_app
from app.migrate import migrate
from app.settings import Settings
from secateur.schemas import PruneJobCreate

SPEC: dict[str, Any] = {"model_id": "m", "dataset_id": "d", "classes": ["cat"], "budget_ms": 1.0}


def problem(response: Response, status: int, code: str) -> dict[str, Any]:
    """Check that the response is this problem and return it."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    body: dict[str, Any] = response.json()
    assert (response.status_code, body["status"], body["code"]) == (status, status, code), body
    assert body["type"] == f"/problems/{code}" and body["title"] and body["detail"]
    assert response.headers["x-request-id"]
    return body


def test_unknown_routes_resources_and_methods(client: TestClient) -> None:
    problem(client.get("/v1/nothing"), 404, "not_found")
    problem(client.get("/static/nothing.js"), 404, "not_found")
    problem(client.get("/v1/models/mdl_x"), 404, "not_found")


def test_a_method_that_a_path_does_not_have_is_answered_with_those_it_has(client: TestClient) -> None:
    for method, path, allowed in (
        ("PUT", "/v1/models", "GET, POST"),
        ("OPTIONS", "/v1/models/mdl_x", "DELETE, GET"),
        ("TRACE", "/v1/uploads/upl_x", "DELETE, GET, HEAD, PATCH"),
        ("POST", "/v1/prune-jobs/job_x/artifacts/model.onnx", "GET, HEAD"),
        ("DELETE", "/v1/luts/compare", "GET"),
        ("GET", "/v1/prune-jobs/validate", "POST"),
        ("POST", "/v1/openapi.json", "GET, HEAD"),
        ("POST", "/static/style.css", "GET, HEAD"),
        ("PUT", "/login", "GET, POST"),
    ):
        answer = client.request(method, path)
        problem(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == allowed, path


@pytest.mark.parametrize("path", ["models", "datasets", "devices", "luts", "prune-jobs"])
def test_things_that_do_not_exist(client: TestClient, path: str) -> None:
    problem(client.get(f"/v1/{path}/x"), 404, "not_found")


def test_a_body_that_is_not_json(client: TestClient) -> None:
    answer = client.post("/v1/prune-jobs", content=b'{"a": ', headers={"Content-Type": "application/json"})
    problem(answer, 400, "malformed_request")
    answer = client.post("/v1/prune-jobs", content=b"\xff\xfe{", headers={"Content-Type": "application/json"})
    problem(answer, 400, "malformed_request")


def test_a_body_of_another_type(client: TestClient) -> None:
    answer = client.post(
        "/v1/prune-jobs", content=b"a=1", headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    problem(answer, 415, "unsupported_media_type")
    answer = client.post("/v1/models", content=b"a=1", headers={"Content-Type": "application/json"})
    assert answer.json()["code"] in ("no_worker", "unsupported_media_type")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit(client: TestClient, settings: Settings, chunked: bool) -> None:
    big = b'{"name": "' + b"x" * settings.max_body_bytes + b'"}'
    content = (big[start : start + 50_000] for start in range(0, len(big), 50_000)) if chunked else big
    answer = client.post("/v1/prune-jobs", content=content, headers={"Content-Type": "application/json"})
    problem(answer, 413, "body_too_large")


@pytest.mark.parametrize(
    ("change", "pointers"),
    [
        ({"budget_ms": 0}, ["/budget_ms"]),
        ({"budget_ms": -1.5}, ["/budget_ms"]),
        ({"budget_ms": "NaN"}, ["/budget_ms"]),
        ({"budget_ms": None}, [""]),
        ({"budget_ratio": 0.5}, [""]),
        ({"classes": []}, ["/classes"]),
        ({"classes": ["a", 1.5, None]}, ["/classes/1", "/classes/2"]),
        ({"model_id": None, "seed": "x"}, ["/model_id", "/seed"]),
        ({"bugdet": 1}, ["/bugdet"]),
        ({"finetune": {"max_epochs": 0}}, ["/finetune/max_epochs"]),
        ({"finetune": {"a/b~": 0}}, ["/finetune/a~1b~0"]),
    ],
)
def test_each_faulty_field_is_pointed_at(client: TestClient, change: dict[str, Any], pointers: list[str]) -> None:
    body = problem(client.post("/v1/prune-jobs", json=SPEC | change), 422, "invalid_request")
    assert [error["pointer"] for error in body["errors"]] == pointers
    assert "Value error" not in str(body)


def test_a_missing_field_and_a_body_of_another_shape(client: TestClient) -> None:
    without = {key: value for key, value in SPEC.items() if key != "dataset_id"}
    body = problem(client.post("/v1/prune-jobs", json=without), 422, "invalid_request")
    assert [error["pointer"] for error in body["errors"]] == ["/dataset_id"]
    body = problem(client.post("/v1/prune-jobs", json=[1, 2]), 422, "invalid_request")
    assert [error["pointer"] for error in body["errors"]] == [""]


def test_faulty_parameters_and_headers(client: TestClient) -> None:
    body = problem(client.get("/v1/models?limit=0"), 422, "invalid_request")
    assert body["errors"][0]["pointer"] == "?limit"
    problem(client.get("/v1/prune-jobs?status=lost"), 422, "invalid_request")
    answer = client.post("/v1/prune-jobs", json=SPEC, headers={"Idempotency-Key": "a key"})
    assert problem(answer, 422, "invalid_request")["errors"][0]["pointer"] == "Idempotency-Key"
    for cursor in ("!!!", "", "AAAA", "bm9uc2Vuc2Ugb2Ygb3Vycw", "é"):
        problem(client.get("/v1/prune-jobs", params={"cursor": cursor}), 422, "bad_cursor")


def test_what_nobody_caught_is_a_500_that_tells_nothing(settings: Settings) -> None:
    migrate(settings)
    app = create_app(settings)

    @app.get("/boom")
    def boom() -> None:
        raise RuntimeError("the secret is 42")

    @app.get("/away")
    def away() -> None:
        raise OperationalError("SELECT secret", {}, Exception("server closed"))

    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        answer = client.get("/boom", headers={"X-Request-ID": "abc-1"})
        assert "abc-1" in problem(answer, 500, "internal_error")["detail"]
        assert "42" not in answer.text and "RuntimeError" not in answer.text
        answer = client.get("/away")
        problem(answer, 503, "database_unavailable")
        assert "secret" not in answer.text and answer.headers["retry-after"]


def test_codes_that_workers_invent_pass_through() -> None:
    error = ApiProblem("wrong_weights", "Two keys are missing.", status=422)
    assert error.problem.status == 422 and error.problem.type == "/problems/wrong_weights" and error.problem.title


@pytest.mark.parametrize(
    ("location", "body", "expected"),
    [
        (("body", "a", 0, "str"), {"a": [1]}, "/a/0"),
        (("body", "a", "int"), {"a": "x"}, "/a"),
        (("body", "a", 3, "b"), {"a": [1]}, "/a"),
        (("query", "limit"), None, "?limit"),
        (("header", "Last-Event-ID"), None, "Last-Event-ID"),
        (("body",), None, ""),
    ],
)
def test_pointers_hold_only_what_is_in_the_body(location: tuple[str | int, ...], body: object, expected: str) -> None:
    assert pointer(location, body) == expected


def test_the_example_is_valid() -> None:
    PruneJobCreate.model_validate(SPEC)
