"""Browsers log in with a key, get one of their own, and use it from our own pages alone."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.auth.access import COOKIE
from secateur.access_schemas import Scope
from tests.unit.app.access_world import BASE_URL, World, trail


@pytest.fixture
def browser(world: World) -> tuple[World, str]:
    """A service, and a key that logs in."""
    return world, world.key(world.own, Scope.READ, Scope.SUBMIT)[1]


def log_in(world: World, key: str, **headers: str) -> Any:
    return world.send(None, "POST", "/login?next=/v1/whoami", data={"key": key}, headers=headers)


def test_a_page_leads_to_the_login_and_the_login_back(browser: tuple[World, str]) -> None:
    world, key = browser
    asked = world.client.get("/jobs/job_1?x=1")
    assert (asked.status_code, asked.headers["location"]) == (303, "/login?next=%2Fjobs%2Fjob_1%3Fx%3D1")
    form = world.client.get(asked.headers["location"])
    assert form.status_code == 200 and "form-action 'self'" in form.headers["content-security-policy"]
    assert form.headers["referrer-policy"] == "same-origin", "else browsers send `Origin: null` with the form"
    answer = log_in(world, f" {key} ", Origin=BASE_URL)
    cookie = answer.headers["set-cookie"]
    assert (answer.status_code, answer.headers["location"]) == (303, "/v1/whoami")
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Max-Age=43200" in cookie and "Secure" not in cookie
    assert key not in cookie
    who = world.client.get("/v1/whoami").json()
    assert who["scopes"] == ["read", "submit"] and who["key"]["derived"]
    left = datetime.fromisoformat(who["key"]["expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=11.9) < left <= timedelta(hours=12)
    assert "Log out" in world.client.get("/").text
    assert world.client.get("/login?next=/luts/x").headers["location"] == "/luts/x"


def test_behind_a_proxy_that_speaks_https_the_cookie_is_secure(browser: tuple[World, str]) -> None:
    world, key = browser
    assert "Secure" in log_in(world, key, Origin="https://127.0.0.1:8117").headers["set-cookie"]


@pytest.mark.parametrize("next", ["//evil.example.com", "https://evil.example.com", "/\\evil", "", "/\nx"])
def test_the_login_leads_nowhere_else(browser: tuple[World, str], next: str) -> None:
    world, key = browser
    answer = world.send(None, "POST", "/login", params={"next": next}, data={"key": key})
    assert answer.headers["location"] == "/"


def test_a_login_with_a_wrong_key_says_so_and_leaves_a_row(browser: tuple[World, str]) -> None:
    world, key = browser
    for wrong in ("", "sct_x", key[:-2]):
        answer = log_in(world, wrong)
        assert answer.status_code == 401 and "set-cookie" not in answer.headers and "<form" in answer.text
        assert not wrong or wrong not in answer.text
    assert [one.status for one in trail(world, action="POST /login")] == [401] * 3


def test_logging_out_ends_the_browsers_key_and_no_other(browser: tuple[World, str]) -> None:
    world, key = browser
    log_in(world, key)
    mine = world.client.cookies[COOKIE]
    out = world.client.post("/logout", headers={"Origin": BASE_URL})
    assert (out.status_code, out.headers["location"]) == (303, "/login") and COOKIE not in world.client.cookies
    assert world.send(mine, "GET", "/v1/whoami").status_code == 401
    assert world.send(key, "POST", "/logout").status_code == 303
    assert world.send(key, "GET", "/v1/whoami").status_code == 200


def test_revoking_a_key_logs_its_browsers_out_an_administrators_too(world: World) -> None:
    row, admin = world.key(world.own, Scope.ADMIN)
    log_in(world, admin)
    assert world.client.get("/").status_code == 200
    world.send(admin, "POST", f"/v1/api-keys/{row.id}/revoke")
    assert world.client.get("/").status_code == 303


@pytest.mark.parametrize(
    ("method", "headers", "counts"),
    [
        ("GET", {}, True),
        ("GET", {"Sec-Fetch-Site": "none"}, True),
        ("GET", {"Sec-Fetch-Site": "same-origin"}, True),
        ("GET", {"Sec-Fetch-Site": "same-site"}, False),
        ("GET", {"Sec-Fetch-Site": "cross-site"}, False),
        ("POST", {}, False),
        ("POST", {"Sec-Fetch-Site": "none"}, False),
        ("POST", {"Sec-Fetch-Site": "same-origin"}, True),
        ("POST", {"Origin": BASE_URL}, True),
    ],
)
def test_a_cookie_counts_for_our_own_pages_alone(
    browser: tuple[World, str], method: str, headers: dict[str, str], counts: bool
) -> None:
    world, key = browser
    log_in(world, key)
    path = "/v1/models" if method == "GET" else f"/v1/prune-jobs/{world.job(world.own)}/cancel"
    answer = world.client.request(method, path, headers=headers)
    assert answer.status_code == ({"GET": 200, "POST": 202}[method] if counts else 401)


def test_an_allowed_origin_may_use_keys_but_no_cookie(tmp_path: Path) -> None:
    tools = "https://tools.example.com"
    world = World(tmp_path, allowed_origins=(tools,))
    with world.client:
        world.fill()
        _, key = world.key(world.own, Scope.READ)
        log_in(world, key)
        assert world.client.get("/v1/models", headers={"Origin": tools}).status_code == 401
        answer = world.send(key, "GET", "/v1/models", headers={"Origin": tools})
        assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == tools
        asks = {
            "Origin": tools,
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization",
        }
        assert world.client.options("/v1/models", headers=asks).status_code == 200


def test_a_header_counts_before_a_cookie(browser: tuple[World, str]) -> None:
    world, key = browser
    log_in(world, key)
    for header in ("Bearer sct_wrong", "Basic eDp5", "Bearer", ""):
        assert world.client.get("/v1/models", headers={"Authorization": header}).status_code == 401
