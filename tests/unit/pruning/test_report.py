import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.formats import format_figure, format_ms, format_percent, format_points, format_short, format_times
from pruning.report import build_report, render_html

FULL: dict[str, Any] = {
    "title": "digits",
    "outcome": "budget_met",
    "budget_ms": 1.2,
    "classes": ["3", "5"],
    "dense": {
        "p50_ms": 2.4,
        "p90_ms": 2.6,
        "num_samples": 90,
        "accuracy": 0.98,
        "per_class": [0.97, 0.99],
        "num_macs": 4_000_000,
    },
    "slim": {
        "p50_ms": 1.1,
        "p90_ms": 1.3,
        "num_samples": 90,
        "accuracy": 0.97,
        "per_class": [0.98, 0.96],
        "num_macs": 1_000_000,
    },
    "stages": [{"name": "as cut", "accuracy": 0.5}, {"name": "fine-tuned", "accuracy": 0.97}],
    "attempts": [
        {"predicted_ms": 1.1, "measured_ms": 1.3, "correction": 1.0, "value": 4.0},
        {"predicted_ms": 1.15, "measured_ms": 1.1, "correction": 1.1, "value": 3.9, "chosen": True},
    ],
    "widths": [
        {"group": "conv1", "units": 16, "kept": 8},
        {"group": "odd", "units": 8, "kept": 8, "reason": "mixes channels"},
    ],
    "solver": {"name": "secateur", "status": "optimal", "value": 3.9, "bound": 3.9, "gap": 0.0, "seconds": 0.1},
    "baselines": [{"name": "uniform widths", "measured_ms": 1.2, "accuracy_cut": 0.4, "accuracy_reconstructed": 0.8}],
    "training": {
        "epochs": [
            {"epoch": 0, "accuracy": 0.8, "loss": 0.5, "train_loss": float("nan")},
            {"epoch": 1, "accuracy": 0.97, "loss": 0.1},
        ],
        "best_epoch": 1,
        "learning_rate": 1e-3,
        "precision": "fp32",
        "seconds": 3.0,
    },
    "storage": {
        "layers": [
            {
                "layer": "layer1.0.conv1",
                "pattern": "16x1@1/4",
                "density": 0.25,
                "dense_bytes": 40_000,
                "csr_bytes": 20_100,
                "compact_bytes": 10_300,
                "metadata_bits": 2_400,
            }
        ],
        "other_bytes": 10_000,
        "dense_bytes": 50_000,
        "csr_bytes": 30_100,
        "compact_bytes": 20_300,
        "metadata_bits": 2_400,
    },
    "modelled": {
        "cores": [
            {
                "name": "CRISP-style core",
                "dense_us": 8530.0,
                "slim_us": 1706.0,
                "dense_uj": 12.0,
                "slim_uj": 8.0,
                "best_layer_speedup": 9.25,
            }
        ],
        "layers": [
            {"name": "conv1", "pattern": "16x1@1/4", "density": 0.25, "speedups": [9.25]},
            {"name": "conv2", "pattern": "dense", "density": 0.0, "speedups": [None]},
        ],
        "macs_share": 0.31,
        "unmodelled": ["encoder_attention"],
    },
    "warnings": [{"code": "images_skipped", "detail": "1 image does not decode"}],
    "provenance": {"seed": 0, "torch": "2.15.0"},
}


class Page(HTMLParser):
    """Collects tags, their attributes and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_verdict_says_budget_speed_and_accuracy_in_one_sentence() -> None:
    sentence = build_report(**FULL)["verdict"]
    assert sentence == (
        "Budget met: 1.10 ms measured against 1.20 ms, 2.18 times faster than dense; "
        "accuracy on the 2 classes 98.0 % before, 97.0 % after."
    )
    missed = build_report(**{**FULL, "outcome": "budget_missed"})["verdict"]
    assert missed.startswith("Budget missed: 1.10 ms")


def test_an_infeasible_job_has_a_report_with_the_least_achievable() -> None:
    fields = {key: FULL[key] for key in ("title", "budget_ms", "classes", "dense")}
    report = build_report(**fields, outcome="infeasible", min_achievable_ms=1.9)
    assert "the least is 1.90 ms" in report["verdict"]
    assert "1.90 ms" in Page(render_html(report)).text


def test_the_report_is_strict_json_and_reads_back() -> None:
    report = build_report(**FULL)
    again = json.loads(json.dumps(report, allow_nan=False))
    assert render_html(again) == render_html(report)
    assert again["training"]["epochs"][0]["train_loss"] is None
    assert again["schema_version"] == 1


def test_pictures_are_inline() -> None:
    page = Page(render_html(build_report(**FULL), [b"one", b"two"]))
    shown = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert shown == ["data:image/png;base64,b25l", "data:image/png;base64,dHdv"]


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="speedup"):
        build_report(**FULL, speedup=2)


def test_the_page_shows_the_figures_and_fetches_nothing() -> None:
    html = render_html(build_report(**FULL))
    page = Page(html)
    for shown in (
        "1.10 ms",
        "97.0 %",
        "−1.0 points",
        "4.00× less",
        "mixes channels",
        "uniform widths",
        "images_skipped",
    ):
        assert shown in page.text
    names = {tag for tag, _ in page.tags}
    assert names & {"script", "link", "img", "iframe", "object"} == set()
    assert not any({"src", "href", "onload", "onclick"} & attributes.keys() for _, attributes in page.tags)
    assert "url(" not in html
    assert "@import" not in html
    assert [tag for tag, _ in page.tags].count("svg") == 6


def test_every_coordinate_of_the_charts_is_a_finite_number() -> None:
    for tag, attributes in Page(render_html(build_report(**FULL))).tags:
        for name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height"):
            if tag in ("rect", "line", "circle", "text") and name in attributes:
                assert re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", attributes[name] or ""), (tag, name, attributes[name])


@settings(max_examples=30, deadline=None)
@given(name=st.text(max_size=40))
def test_names_from_users_stay_text(name: str) -> None:
    hostile = name + "<script>alert(1)</script>\"'>"
    report = build_report(**{**FULL, "title": hostile, "classes": [hostile, "b"]})
    tags = Page(render_html(report)).tags
    assert not any(tag == "script" for tag, _ in tags)
    assert len(tags) == len(Page(render_html(build_report(**FULL))).tags)


def test_missing_figures_are_dashes_and_never_break_the_page() -> None:
    bare = {
        "title": "t",
        "outcome": "budget_met",
        "budget_ms": 1.0,
        "classes": ["a"],
        "dense": {},
        "slim": {"p50_ms": 0.9},
    }
    assert "–" in render_html(build_report(**bare))
    sparse = {
        **FULL,
        "attempts": [{"predicted_ms": None, "measured_ms": None}],
        "training": {**FULL["training"], "epochs": []},
    }
    sparse["slim"] = {**FULL["slim"], "per_class": [None, 0.5], "accuracy": None}
    sparse["baselines"] = [{"name": "x", "measured_ms": None, "accuracy_cut": None, "accuracy_reconstructed": None}]
    assert "–" in render_html(build_report(**sparse))


def test_a_job_of_many_classes_and_one_of_one_class_are_drawn() -> None:
    for num in (1, 300):
        per_class = [0.5] * num
        fields = {**FULL, "classes": [str(i) for i in range(num)]}
        fields |= {side: {**FULL[side], "per_class": per_class} for side in ("dense", "slim")}
        assert "<svg" in render_html(build_report(**fields))


def test_figures_are_formatted_for_reading() -> None:
    assert [format_ms(v) for v in (None, 0.01234, 1.5, 35.04, 1234.5)] == ["–", "0.0123", "1.50", "35.0", "1234"]
    assert [format_percent(v) for v in (None, 0.925, 1.0)] == ["–", "92.5 %", "100.0 %"]
    assert [format_points(v) for v in (None, -0.012, 0.0)] == ["–", "−1.2", "+0.0"]
    assert [format_short(v) for v in (None, 3.05, 853_018, 4_089_000_000)] == ["–", "3.05", "853 k", "4.09 G"]
    assert [format_figure(v) for v in (None, 0.03123, 4.0912, 99.96, 8530.2)] == ["–", "0.0312", "4.09", "100", "8,530"]
    assert [format_times(v) for v in (None, 3.049)] == ["–", "3.05×"] and format_times(3.0, 0.0) == "–"


@pytest.mark.parametrize(
    ("limits", "least_ms", "words"),
    [
        ([], 2.0, "to 1.20 ms on this device: the least is 2.00 ms"),
        ([("phone", "ms", 5.0, 7.0)], 0.5, "to 5.00 ms (phone): the least is 7.00 ms"),
        ([("weights", "bytes", 1000, 2000)], 0.5, "to 1 k (weights): the least is 2 k"),
        ([("phone", "ms", 5.0, 4.0)], 0.5, "no width on offer keeps all of them at once"),
    ],
)
def test_an_infeasible_job_says_which_budget_nothing_keeps(
    limits: list[tuple[str, str, float, float]], least_ms: float, words: str
) -> None:
    rows = [
        {"name": name, "unit": unit, "limit": limit, "min_achievable": least} for name, unit, limit, least in limits
    ]
    fields = FULL | {"outcome": "infeasible", "slim": None, "limits": rows, "min_achievable_ms": least_ms}
    assert words in build_report(**fields)["verdict"]


def test_masked_weights_are_weighed_dense_in_csr_and_compact_in_total_and_by_layer() -> None:
    text = Page(render_html(build_report(**FULL))).text
    for shown in (
        "model.compact.safetensors",
        "50 kB",
        "30.1 kB",
        "20.3 kB",
        "40.6 %",
        "2.4 k",
        "10.3 kB",
        "layer1.0.conv1",
    ):
        assert shown in text


def test_modelled_accelerators_are_called_a_model_and_stand_beside_the_papers_claim() -> None:
    text = " ".join(Page(render_html(build_report(**FULL))).text.split())
    section = text.partition("On modelled accelerators")[2].partition("Figures")[0]
    for shown in ("A model, not a measurement", "CRISP-style core", "8,530", "1,706", "5.00×", "1.50×", "9.25×"):
        assert shown in section
    assert "up to 14×" in section and "7.1 %" in section and "31.0 % of its multiply-accumulates" in section
    assert "encoder_attention" in section and "removed" in section


def test_a_network_without_masks_has_no_table_of_storage() -> None:
    text = Page(render_html(build_report(**{**FULL, "storage": None, "modelled": None}))).text
    assert "Compact storage" not in text and "modelled accelerators" not in text
