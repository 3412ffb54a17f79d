"""What a job's events add up to on the screen."""

from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from rich.spinner import Spinner

from secateur.cli import watching
from secateur.cli.watching import Progress, clock, figure, words
from secateur.schemas import JobEvent

START = datetime(2026, 1, 2, tzinfo=UTC)


def after(progress: Progress, *story: tuple[int, str, dict[str, Any]]) -> Progress:
    """Add events at seconds from the start."""
    for number, (second, kind, data) in enumerate(story):
        moment = START + timedelta(seconds=second)
        progress.take(JobEvent(id=number, job_id="j", kind=kind, data=data, created_at=moment))
    return progress


def test_time_left_follows_from_the_share_done() -> None:
    progress = after(Progress(), (0, "status", {"status": "queued"}), (100, "status", {"status": "running"}))
    assert progress.remaining is None
    after(progress, (160, "progress", {"progress": 0.25}))
    assert progress.elapsed == timedelta(seconds=60) and progress.remaining == timedelta(seconds=180)


def test_job_taken_over_counts_from_where_it_was() -> None:
    progress = after(
        Progress(),
        (0, "status", {"status": "running", "attempt": 1}),
        (50, "progress", {"progress": 0.5}),
        (1000, "status", {"status": "running", "attempt": 2}),
        (1020, "progress", {"progress": 0.75}),
    )
    assert progress.remaining == timedelta(seconds=20)


def test_job_queued_again_begins_at_nothing() -> None:
    progress = after(Progress(), (0, "progress", {"progress": 0.5}), (1, "status", {"status": "queued"}))
    assert progress.fraction == 0.0


def test_newest_figures_stand_last() -> None:
    progress = after(
        Progress(), (0, "metric", {"values": {"loss": 1.5, "val_accuracy": 0.5, "note": "x", "flag": True}})
    )
    after(progress, (1, "metric", {"loss": 1.25}))
    assert list(progress.metrics.items()) == [("val_accuracy", "50.00 %"), ("loss", "1.25")]


@pytest.mark.parametrize("data", [{}, {"values": None}, {"progress": "half"}, {"text": None}])
@pytest.mark.parametrize("kind", ["status", "phase", "progress", "metric", "warning", "log", "of the future"])
def test_odd_events_do_no_harm(kind: str, data: dict[str, Any]) -> None:
    assert after(Progress(), (0, kind, data)).fraction == 0.0


def test_figures_carry_the_unit_of_their_key() -> None:
    assert (figure("measured_ms", 1.23456), figure("measured_ms", 123.456)) == ("1.235 ms", "123.46 ms")
    assert (figure("val_accuracy", 0.93), figure("epoch", 3), figure("loss", 0.123456)) == ("93.00 %", "3", "0.1235")
    assert (words("measured_ms"), words("num_images"), words("val_accuracy")) == ("measured", "images", "val accuracy")
    assert (clock(timedelta(seconds=62)), clock(timedelta(hours=1, seconds=3))) == ("1:02", "1:00:03")


def test_picture_names_phase_share_times_and_figures() -> None:
    progress = after(
        Progress(),
        (0, "status", {"status": "running"}),
        (0, "phase", {"phase": "finetuning"}),
        (0, "metric", {"values": {"measured_ms": 1.9}}),
        (30, "progress", {"progress": 0.5}),
    )
    console = Console(file=StringIO(), width=120)
    console.print(watching._picture(progress, Spinner("dots")))
    assert isinstance(console.file, StringIO)
    text = console.file.getvalue()
    for part in ("finetuning", "50 %", "0:30 left 0:30", "measured 1.900 ms"):
        assert part in text
