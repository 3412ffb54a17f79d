"""No web page can drive the service from a browser, and every answer carries safe headers."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.migrate import migrate
from app.settings import Settings

HERE = "http://127.0.0.1:8117"


@pytest.mark.parametrize(
    "host", ["evil.example.com", "127.0.0.1.evil.example.com", "", "localhost.evil.com:8117", "[x"]
)
def test_a_name_that_is_not_ours_is_refused(client: TestClient, host: str) -> None:
    answer = client.get("/v1/models", headers={"Host": host})
    assert (answer.status_code, answer.json()["code"]) == (403, "host_refused")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8117", "127.0.0.1:9", "[::1]:8117", "10.1.2.3"])
def test_loopback_names_and_addresses_are_known(client: TestClient, host: str) -> None:
    assert client.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example.com", "null", "http://127.0.0.1:9999", "http://localhost:8117"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_pages_of_other_origins_are_refused(client: TestClient, origin: str, method: str) -> None:
    answer = client.request(method, "/v1/prune-jobs/x/cancel", headers={"Origin": origin})
    assert (answer.status_code, answer.json()["code"]) == (403, "origin_refused")
    assert "access-control-allow-origin" not in answer.headers


def test_our_own_pages_may_act(client: TestClient) -> None:
    answer = client.post("/v1/prune-jobs/x/cancel", headers={"Origin": HERE, "Sec-Fetch-Site": "same-origin"})
    assert answer.json()["code"] == "not_found"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_form_of_another_site_changes_nothing_but_a_link_may_lead_here(client: TestClient, site: str) -> None:
    answer = client.post("/v1/prune-jobs/x/cancel", headers={"Sec-Fetch-Site": site})
    assert answer.json()["code"] == "origin_refused"
    assert client.get("/", headers={"Sec-Fetch-Site": site}).status_code == 200


def test_named_hosts_and_origins_are_let_in(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path, allowed_hosts=("Prune.example.com",), allowed_origins=("https://tools.example.com",)
    )
    migrate(settings)
    with TestClient(create_app(settings), base_url="http://prune.example.com") as client:
        answer = client.get("/v1/models", headers={"Origin": "https://tools.example.com"})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://tools.example.com"
        preflight = {"Origin": "https://tools.example.com", "Access-Control-Request-Method": "POST"}
        assert client.options("/v1/prune-jobs", headers=preflight).status_code == 200
        assert client.get("/v1/models", headers={"Origin": "https://evil.example.com"}).status_code == 403


@pytest.mark.parametrize("path", ["/healthz", "/v1/nothing", "/", "/static/style.css", "/v1/models?limit=0"])
def test_every_answer_carries_safe_headers_and_a_request_id(client: TestClient, path: str) -> None:
    headers = client.get(path, headers={"X-Request-ID": "my-id.1"}).headers
    assert headers["x-request-id"] == "my-id.1"
    assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]


def test_a_request_id_that_could_forge_a_log_line_is_replaced(client: TestClient) -> None:
    given = 'x" injected'
    assert client.get("/healthz", headers={"X-Request-ID": given}).headers["x-request-id"] != given
