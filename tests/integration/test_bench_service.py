"""The bench of the service, in small: every part runs, and says what it found in rows of one form."""

import json
from typing import Any

import pytest

from bench.service import main

KEYS = {"check", "value", "unit", "target", "ok", "database"}


def rows(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Value of each check; whether this machine keeps the targets is no question of a test."""
    main(["--json", *arguments])
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(set(row) == KEYS for row in found), found
    return {row["check"]: row["value"] for row in found}


@pytest.mark.postgres
def test_jobs_are_submitted_and_streams_followed(capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--seconds", "2", "--clients", "3", "--rate", "15", "--watchers", "30")
    found = rows(capsys, "--parts", "submit", "watch", *few)
    assert found["submit_per_s"] > 0 and found["submit_refused"] == 0
    assert found["watch_events_per_s"] > 0 and found["watch_streams_with_faults"] == 0


def test_a_queue_is_drained_and_a_load_held(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, "--parts", "drain", "soak", "--database", "sqlite", "--jobs", "10", "--seconds", "12")
    assert found["drain_not_done_once"] == 0 and found["drain_worst_place"] > 0
    assert found["soak_api_mib"] > 0 and found["soak_failed_requests"] == 0


def test_a_name_of_no_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--parts", "none"])
    assert "invalid choice" in capsys.readouterr().err
