"""Keys, projects and the audit trail from the command line, against a service that asks for keys."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from secateur import ApiError, Client, UsageError
from secateur.cli import app
from tests.integration.api_service import ROOT

KEY = re.compile(r"sct_[a-z2-7]{8}_[A-Za-z0-9_-]{43}")


class Shell:
    """The commands of somebody with a key."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key = url, key

    def run(self, *arguments: str, code: int = 0) -> Any:
        """The command's end; its exit code must be this one."""
        environment = {"SECATEUR_URL": self.url, "SECATEUR_API_KEY": self.key, "COLUMNS": "250"}
        result = CliRunner().invoke(app, [*arguments], env=environment)
        assert result.exit_code == code, result.output
        return result

    def json(self, *arguments: str) -> Any:
        """What the command prints as JSON."""
        return json.loads(self.run(*arguments, "--json").stdout)


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """The first administrator of a service."""
    home = tmp_path_factory.mktemp("keys") / "home"
    environment = {"SECATEUR_HOME": str(home), "SECATEUR_PORT": "0", "SECATEUR_AUTH": "keys"}
    log = Path(home.parent / "log")
    with log.open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "app"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=err, text=True
        )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        (key,) = KEY.findall(log.read_text())
        yield Shell(url, key)
    finally:
        process.terminate()
        process.wait(30)
    assert len(KEY.findall(log.read_text())) == 1, "no key is logged"


def test_a_team_gets_its_project_its_key_and_its_limits(admin: Shell) -> None:
    assert "first administrator" in admin.run("whoami").stdout
    project = admin.run("projects", "create", "vision team", "--jobs", "3").stdout.strip()
    made = admin.run("keys", "create", "ci", "--project", project, "--scope", "read", "--expires", "30d")
    key = made.stdout.strip()
    assert KEY.fullmatch(key) and "not shown again" in made.stderr
    team = Shell(admin.url, key)
    who = team.json("whoami")
    assert (who["project"]["name"], who["scopes"], who["limits"]["max_active_jobs"]) == ("vision team", ["read"], 3)
    assert team.json("models") == []
    refused = team.run("keys", "create", "more", "--scope", "submit", code=1)
    assert "'submit'" in refused.stderr
    assert "lacks the scope 'admin'" in team.run("projects", "list", code=1).stderr
    changed = admin.json("projects", "limits", project, "--jobs", "-1", "--bytes", "1000")
    assert (changed["limits"]["max_active_jobs"], changed["limits"]["max_stored_bytes"]) == (None, 1000)
    listed = admin.run("keys", "list", "--project", project).stdout
    assert key[:12] in listed and key not in listed and "vision team" in admin.run("projects", "list").stdout
    (one,) = admin.json("keys", "list", "--project", project)
    assert "revoked" in admin.run("keys", "revoke", one["id"]).stderr
    gone = team.run("models", code=1)
    assert "was revoked" in gone.stderr and "SECATEUR_API_KEY" in gone.stderr
    rows = admin.json("audit", "--object", one["id"])
    assert [row["action"] for row in rows] == ["POST /v1/api-keys/{key_id}/revoke", "POST /v1/api-keys"]
    assert "POST /v1/projects" in admin.run("audit", "-n", "20").stdout


def test_a_key_on_the_command_line_counts_before_the_environments(
    admin: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECATEUR_API_KEY", "restored afterwards")
    stranger = Shell(admin.url, "sct_wrong")
    stranger.run("models", code=1)
    assert "first administrator" in stranger.run("--key", admin.key, "whoami").stdout
    assert "expires takes" in admin.run("keys", "create", "x", "--expires", "soon", code=2).stderr


def test_a_client_takes_its_key_as_an_argument_or_from_the_environment(
    admin: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(admin.url, key=admin.key) as client:
        assert client.whoami().auth
        with pytest.raises(UsageError, match="scopes"):
            client.create_key("x", scopes=["everything"])
        assert {project.id for project in client.projects()} >= {"default"}
    with Client(admin.url) as client, pytest.raises(ApiError) as refusal:
        client.whoami()
    assert refusal.value.code == "key_required"
    monkeypatch.setenv("SECATEUR_API_KEY", admin.key)
    with Client(admin.url) as client:
        assert client.whoami().scopes == ["admin"]
