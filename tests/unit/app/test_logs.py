"""Records of everybody come out as one kind of JSON line, with ids and without secrets."""

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from app.logs import HIDDEN, configure_logs, hide, secrets
from app.settings import Settings

ROOT = Path(__file__).parents[3]
PASSWORD = "tr0ub4dor&3 /@:"
URL = "postgresql+psycopg://me:tr0ub4dor&3%20%2F%40%3A@127.0.0.1:1/db"
KEY = f"sct_{8 * 'a'}_{43 * 'b'}"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Logs set up as in a process of the service; what was written so far, line by line."""
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers, root.level
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    text = io.StringIO()
    monkeypatch.setattr(sys, "stderr", text)
    configure_logs(Settings(database_url=URL, store_secret_access_key=SecretStr("bucket-key-0123")))
    yield lambda: [json.loads(line) for line in text.getvalue().splitlines()]
    root.handlers, root.level = handlers, level
    logging.getLogger("dbos").handlers, logging.getLogger("dbos").propagate = [], True
    logging.captureWarnings(False)
    structlog.configure(**before)


def test_every_record_says_when_who_and_what(lines: Callable[[], list[dict[str, Any]]]) -> None:
    structlog.get_logger("app.test").info("ours", action="test", num=3)
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 7)
    logging.getLogger("dbos").error("a workflow %s", "broke")
    found = lines()
    assert [line["event"] for line in found] == ["ours", "Started server process [7]", "a workflow broke"]
    assert [line["action"] for line in found] == ["test", "uvicorn", "dbos"]
    assert all(line["timestamp"].endswith("Z") and line["level"] and line["logger"] for line in found)


def test_records_of_libraries_carry_the_ids_that_are_bound(lines: Callable[[], list[dict[str, Any]]]) -> None:
    with structlog.contextvars.bound_contextvars(request_id="r1", job_id="job_1", traceparent=TRACE):
        logging.getLogger("sqlalchemy").warning("slow")
    with structlog.contextvars.bound_contextvars(request_id="", job_id="", traceparent=""):
        logging.getLogger("sqlalchemy").warning("slow")
    bound, empty = lines()
    assert (bound["request_id"], bound["job_id"]) == ("r1", "job_1")
    assert bound["trace_id"] == "0af7651916cd43dd8448eb211c80319c" and "traceparent" not in bound
    assert not {"request_id", "job_id", "trace_id", "traceparent"} & set(empty)


def test_secrets_appear_in_no_record(lines: Callable[[], list[dict[str, Any]]]) -> None:
    log = structlog.get_logger("app.test")
    log.info(
        f"connect to {URL}",
        action="test",
        headers={"Authorization": "Bearer abc.def"},
        args=["bucket-key-0123"],
        key=KEY,
    )
    log.warning("Authorization: Basic dXNlcjpwYXNz and bearer xyz.uvw", action="test")
    logging.getLogger("psycopg").error("password is %s", PASSWORD)
    try:
        raise ValueError(f"cannot reach {URL}")
    except ValueError:
        log.exception("broken", action="test")
    written = json.dumps(lines(), ensure_ascii=False)
    for secret in ("tr0ub4dor", PASSWORD, "bucket-key-0123", "abc.def", KEY, "dXNlcjpwYXNz", "xyz.uvw"):
        assert secret not in written, secret
    assert HIDDEN in written and "127.0.0.1:1/db" in written


@given(
    st.text(min_size=4, max_size=30).filter(lambda text: HIDDEN not in text and text not in HIDDEN),
    st.text(),
    st.text(),
)
def test_no_secret_survives_wherever_it_stands(secret: str, before: str, after: str) -> None:
    event = {"event": before + secret + after, "deep": [{"in": (secret,)}], secret: 1, "object": Exception(secret)}
    cleaned = hide([secret])(None, "info", {name: value for name, value in event.items() if name != secret})
    assert secret not in cleaned["event"].replace(HIDDEN, "\0" if "\0" not in secret else "\1")
    assert cleaned["deep"] == [{"in": [HIDDEN]}]


def test_secrets_are_known_as_written_and_as_meant() -> None:
    found = secrets(Settings(database_url=URL, store_secret_access_key=SecretStr("bucket-key-0123")))
    assert {PASSWORD, "tr0ub4dor&3%20%2F%40%3A", "bucket-key-0123"} == set(found)
    assert secrets(Settings()) == []


def test_the_last_words_of_a_process_are_a_record_without_secrets(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "SECATEUR_HOME": str(tmp_path / "home"),
        "SECATEUR_DATABASE_URL": URL,
        "SECATEUR_PORT": "0",
    }
    environment |= {"PYTHONPATH": str(ROOT), "SECATEUR_LOG_LEVEL": "DEBUG"}
    run = subprocess.run([sys.executable, "-m", "app"], env=environment, capture_output=True, text=True, timeout=60)
    last = json.loads(run.stderr.splitlines()[-1])
    assert run.returncode == 1
    assert (last["action"], last["event"], last["level"]) == ("crash", "unhandled error", "critical")
    assert "OperationalError" in last["exception"] and "tr0ub4dor" not in run.stderr + run.stdout


def test_a_request_is_logged_with_its_ids_and_without_its_query(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as records:
        headers = {"X-Request-ID": "mine", "traceparent": TRACE, "Authorization": "Bearer abc.def"}
        client.get("/v1/models?secret=1", headers=headers)
    (record,) = [record for record in records if record["action"] == "request"]
    assert (record["request_id"], record["traceparent"], record["path"]) == ("mine", TRACE, "/v1/models")
    assert "abc.def" not in str(records) and "secret=1" not in str(records)
