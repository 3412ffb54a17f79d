"""The dashboard, the alerts and the scrape configuration know the metrics there are."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from app.metrics import METRICS

DEPLOY = Path(__file__).parents[3] / "deploy"
FILES = ("grafana/secateur.json", "prometheus/alerts.yml", "prometheus/prometheus.yml")
PROCESS = {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"}
"""Of prometheus-client itself."""
_WORDS = re.compile(r"\b(?:secateur|process)_[a-z_]+")


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DEPLOY / "grafana/secateur.json").read_text())
    return found


@pytest.mark.parametrize("file", FILES)
def test_every_metric_that_is_used_is_documented(file: str) -> None:
    known = {*METRICS, *PROCESS}
    known |= {f"{name}_bucket" for name, kind in METRICS.items() if kind.kind == "histogram"}
    assert set(_WORDS.findall((DEPLOY / file).read_text())) <= known


def test_the_dashboard_shows_every_metric() -> None:
    text = json.dumps(dashboard())
    assert [name for name in METRICS if name not in text] == []


@pytest.mark.parametrize("file", FILES[:2])
def test_every_label_that_is_used_is_one_of_the_metric(file: str) -> None:
    text = (DEPLOY / file).read_text().replace("\\", "")
    for name, matchers in re.findall(r"\b((?:secateur)_[a-z_]+)\{([^}]*)\}", text):
        labels = METRICS[name.removesuffix("_bucket")].labels
        assert {one.strip() for one in re.findall(r"([a-z_]+)\s*(?:=~|!=|=)", matchers)} <= set(labels), name


def test_panels_lie_beside_each_other_and_read_the_chosen_source() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels if panel["type"] != "row")


def test_figures_of_the_database_are_never_added_up() -> None:
    own = ("secateur_requests", "secateur_request_duration", "secateur_event_streams", "secateur_database_pool")
    for file in FILES[:2]:
        for name in re.findall(
            r"sum(?: by \([a-z, ]+\))? ?\((?:rate\()?(secateur_[a-z_]+)", (DEPLOY / file).read_text()
        ):
            assert name.startswith(own), f"{file}: {name} is the same at every API process"
