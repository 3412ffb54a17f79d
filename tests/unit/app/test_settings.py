"""Settings and what follows from them."""

import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from app.settings import Settings

ROOT = Path(__file__).parents[3]


def test_the_default_is_a_sqlite_file_in_the_home(tmp_path: Path) -> None:
    assert Settings(home=tmp_path).url == f"sqlite:///{tmp_path}/secateur.db"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_any_postgres_url_uses_the_driver_we_ship(scheme: str) -> None:
    assert Settings(database_url=f"{scheme}://u:p@h/d").url == "postgresql+psycopg://u:p@h/d"


def test_a_worker_may_miss_a_beat_or_two() -> None:
    assert Settings(worker_heartbeat_s=2.0, worker_timeout_s=6.0).worker_timeout_s == 6.0
    with pytest.raises(ValueError, match="three times worker_heartbeat_s"):
        Settings(worker_heartbeat_s=2.1, worker_timeout_s=6.0)


def test_lists_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_ALLOWED_HOSTS", "a.example.com, b.example.com,")
    assert Settings().allowed_hosts == ("a.example.com", "b.example.com")


@pytest.mark.parametrize(
    ("host", "beyond"),
    [("127.0.0.1", False), ("127.9.9.9", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("::", True),
     ("10.0.0.7", True), ("api", True)],
)  # fmt: skip
def test_a_host_that_others_can_reach_is_known_as_such(host: str, beyond: bool) -> None:
    assert Settings(host=host).listens_beyond_loopback is beyond


@pytest.mark.parametrize(
    ("host", "auth", "asks"),
    [("127.0.0.1", None, False), ("0.0.0.0", None, True), ("127.0.0.1", "keys", True), ("0.0.0.0", "off", False)],
)
def test_a_service_that_others_can_reach_asks_for_keys(host: str, auth: Literal["off", "keys"], asks: bool) -> None:
    assert Settings(host=host, auth=auth).asks_for_keys is asks


def test_the_api_does_not_listen_beyond_loopback_without_keys(tmp_path: Path) -> None:
    values = {"HOME": str(tmp_path / "home"), "HOST": "0.0.0.0", "PORT": "0", "AUTH": "off"}
    environment = {f"SECATEUR_{name}": value for name, value in values.items()}
    run = subprocess.run(
        [sys.executable, "-m", "app"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 2 and "SECATEUR_AUTH" in run.stderr
    assert not (tmp_path / "home").exists()


def test_the_front_door_never_loads_what_is_slow() -> None:
    code = (
        "import sys, app.__main__; slow = {'torch', 'ortools', 'numpy', 'onnxruntime', 'pruning', 'lut', 'workers'};"
        "print(sorted(slow & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "[]"
