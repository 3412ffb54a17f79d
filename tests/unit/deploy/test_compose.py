"""What docker-compose.yml and the Dockerfile say is known, guarded and bounded."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings
from secateur.client import KEY_VARIABLE

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {
    name
    for service in SERVICES.values()
    for name, wait in service.get("depends_on", {}).items()
    if wait["condition"] == "service_completed_successfully"
}


def test_the_service_is_whole() -> None:
    workers = [name for name, service in SERVICES.items() if "worker" in service.get("command", ())]
    assert len(workers) == 2 and {"postgres", "store", "migrate", "api", "agent", "prometheus", "grafana"} <= set(
        SERVICES
    )
    slots = {(SERVICES[name]["hostname"], SERVICES[name]["command"][3]) for name in workers}
    assert len({slot for _, slot in slots}) == len(slots) == 2


def test_every_setting_that_is_named_is_one() -> None:
    known = {f"SECATEUR_{name.upper()}" for name in Settings.model_fields} | {KEY_VARIABLE}
    named = {name for service in SERVICES.values() for name in service.get("environment", {})}
    named |= set(re.findall(r"\bSECATEUR_[A-Z_]+\b", (ROOT / "Dockerfile").read_text()))
    assert {name for name in named if name.startswith("SECATEUR_")} <= known


def test_the_settings_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVICES["api"]["environment"].items():
        monkeypatch.setenv(name, re.sub(r"\$\{[^}]*\}", "hidden", str(value)))
    settings = Settings()
    assert settings.asks_for_keys and settings.store_allow_http
    assert settings.url == "postgresql+psycopg://secateur:hidden@postgres:5432/secateur"


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_looked_after_and_bounded(name: str) -> None:
    service = SERVICES[name]
    assert service["mem_limit"] and service["cpus"] and service["pids_limit"]
    assert service["restart"] == ("on-failure" if name in ONE_SHOT else "unless-stopped")
    assert ("test" in service["healthcheck"]) is (name not in ONE_SHOT)
    assert ":latest" not in service["image"] and (":" in service["image"] or service["image"] == "secateur")
    if name != "postgres":  # it begins as root, to give its folder away
        assert service["cap_drop"] == ["ALL"] and service["read_only"]


def test_what_is_waited_for_can_be_waited_for() -> None:
    for service in SERVICES.values():
        for name, wait in service.get("depends_on", {}).items():
            assert wait["condition"] == "service_completed_successfully" or "test" in SERVICES[name]["healthcheck"]


def test_no_password_is_written_down_and_none_is_missing() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|DATABASE_URL", name):
                assert re.search(r"\$\{[A-Z_]+:\?[^}]+\}", str(value)), name
    manual = (ROOT / "deploy/README.md").read_text()
    assert all(name in manual for name in re.findall(r"\$\{([A-Z_]+)", TEXT))


def test_ports_are_published_on_loopback_and_the_inner_network_leads_nowhere() -> None:
    published = {name for name, service in SERVICES.items() if "ports" in service}
    assert published == {"api", "grafana"}
    assert all(port.startswith("127.0.0.1:") for name in published for port in SERVICES[name]["ports"])
    assert COMPOSE["networks"]["inner"]["internal"]
    outside = {name for name, service in SERVICES.items() if "outer" in service["networks"]}
    assert outside == published


def test_every_file_and_volume_that_is_mounted_is_there() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]


def test_grafana_finds_the_dashboard_and_its_source() -> None:
    folder = ROOT / "deploy/grafana"
    sources = yaml.safe_load((folder / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert [source["url"] for source in sources] == ["http://prometheus:9090"]
    (provider,) = yaml.safe_load((folder / "provisioning/dashboards/secateur.yml").read_text())["providers"]
    mounted = [volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/secateur.json" in mounted
    assert json.loads((folder / "secateur.json").read_text())["uid"] == "secateur"


def test_prometheus_asks_the_api() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    assert [
        target for job in config["scrape_configs"] for one in job["static_configs"] for target in one["targets"]
    ] == ["api:8117"]


def test_the_image_drops_nothing_but_pytorch_from_the_lock(tmp_path: Path) -> None:
    text = (ROOT / "Dockerfile").read_text()
    own = re.search(r"""index"\) own='([^']+)'""", text)
    program = re.search(r"""awk -v own="\$own" '([^']+)'""", text)
    assert own and program
    lock = ROOT / "requirements.lock"
    run = subprocess.run(
        ["awk", "-v", f"own={own[1]}", program[1], str(lock)], capture_output=True, text=True, check=True
    )  # fmt: skip
    names = re.compile(r"^([a-z0-9._-]+)==", re.MULTILINE)
    dropped = set(names.findall(lock.read_text())) - set(names.findall(run.stdout))
    assert {"torch", "torchvision", "triton", "nvidia-cublas", "cuda-toolkit"} <= dropped
    assert all(re.match("(torch|torchvision|triton|nvidia-.*|cuda-.*)$", name) for name in dropped)
    assert run.stdout.count("--hash=") > 500 and "nvidia" not in re.sub("#.*", "", run.stdout)
