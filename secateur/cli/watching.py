"""A job's events as they come: a live bar on a terminal, plain lines in a log, JSON lines for programs."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from secateur.cli.common import ExitCode, say, say_json
from secateur.client import Client
from secateur.schemas import JobEvent, JobStatus, PruneJob

T = TypeVar("T")

EXTRA_METRICS = 6
"""Figures shown beside the bar, the latest first."""


@dataclass(kw_only=True)
class Progress:
    """What the events so far add up to."""

    status: str = JobStatus.QUEUED
    phase: str = ""
    fraction: float = 0.0
    metrics: dict[str, str] = field(default_factory=dict)
    began: tuple[datetime, float] | None = None
    """When the present attempt began, and the fraction that was done by then."""
    told: timedelta | None = None
    """Time left as the service tells it, where it does."""
    now: datetime | None = None
    """The service's clock at the last event."""

    def take(self, event: JobEvent) -> str | None:
        """Add one event; return the line it deserves in a log, if any."""
        data = event.data
        self.now = event.created_at
        match event.kind:
            case "status":
                self.status = str(data.get("status", self.status))
                if self.status == JobStatus.QUEUED:
                    self.fraction = 0.0
                if self.status == JobStatus.RUNNING:
                    self.began = event.created_at, self.fraction
                return f"status {self.status}"
            case "phase":
                self.phase = str(data.get("phase", ""))
                return f"phase {self.phase}"
            case "progress":
                self.fraction = _fraction(data, self.fraction)
                left_s = data.get("seconds_left")
                self.told = timedelta(seconds=left_s) if isinstance(left_s, (int, float)) else None
                return None
            case "metric":
                return self._measure(data)
            case "warning":
                return f"warning: {_text(data)}"
            case "log":
                return _text(data)
        return None

    def _measure(self, data: dict[str, Any]) -> str | None:
        values = data.get("values", data)
        figures = {
            name: figure(name, value)
            for name, value in (values.items() if isinstance(values, dict) else ())
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        for name in figures:
            self.metrics.pop(name, None)  # so that what is new moves to the end
        self.metrics.update(figures)
        return ", ".join(f"{words(name)} {value}" for name, value in figures.items()) or None

    @property
    def elapsed(self) -> timedelta | None:
        """Time since a worker began, by the service's clock."""
        return self.now - self.began[0] if self.now and self.began else None

    @property
    def remaining(self) -> timedelta | None:
        """Time left if the rest goes as fast as what this attempt did; None until that means anything."""
        if self.told is not None:
            return self.told
        done = self.fraction - self.began[1] if self.began else 0.0
        if self.elapsed is None or done < 0.02:
            return None
        return self.elapsed * ((1 - self.fraction) / done)


def watch_job(client: Client, job_id: str, *, json: bool) -> PruneJob:
    """Return the job when it has ended, having shown what happened meanwhile; see `watched`."""
    return watched(partial(client.wait, job_id, check=False), f"secateur watch {job_id}", json=json)


def watched(wait: Callable[..., T], again: str, *, json: bool) -> T:
    """Return what `wait(on_event=...)` returns, having shown the events.

    With `json`, each event is a line on stdout; else everything goes to stderr. Ctrl-C leaves the job alone, tells the
    command `again` that comes back to it, and exits with 130.
    """
    try:
        if json:
            return wait(on_event=lambda event: say_json(event, line=True))
        if sys.stderr.isatty():
            return _watch_live(wait)
        progress = Progress()
        return wait(on_event=lambda event: _log(progress.take(event)))
    except KeyboardInterrupt:
        say(f"\nthe job goes on; come back to it with: {again}")
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def _watch_live(wait: Callable[..., T]) -> T:
    console = Console(stderr=True)
    progress = Progress()
    spinner = Spinner("dots")

    def show(event: JobEvent) -> None:
        line = progress.take(event)
        if line and event.kind in ("log", "warning"):
            live.console.print(Text(line, style="yellow" if event.kind == "warning" else "dim"))
        live.update(_picture(progress, spinner))

    with Live(_picture(progress, spinner), console=console, transient=True, refresh_per_second=8) as live:
        return wait(on_event=show)


def _picture(progress: Progress, spinner: Spinner) -> Group:
    """Return a line with the bar and one with the latest figures."""
    head = Table.grid(padding=(0, 1))
    times = " ".join(
        f"{label} {clock(span)}"
        for label, span in (("", progress.elapsed), ("left", progress.remaining))
        if span is not None
    )
    state = progress.phase if progress.status == JobStatus.RUNNING and progress.phase else progress.status
    bar = ProgressBar(total=1.0, completed=progress.fraction, width=32)
    head.add_row(
        spinner, Text(state, style="bold"), bar, Text(f"{100 * progress.fraction:3.0f} %"), Text(times.strip())
    )
    latest = list(progress.metrics.items())[-EXTRA_METRICS:]
    return Group(head, Text("  " + "   ".join(f"{words(name)} {value}" for name, value in latest), style="cyan"))


def _log(line: str | None) -> None:
    if line:
        say(line)


def _fraction(data: dict[str, Any], default: float) -> float:
    value = data.get("progress", data.get("fraction", default))
    return min(1.0, max(0.0, float(value))) if isinstance(value, (int, float)) else default


def _text(data: dict[str, Any]) -> str:
    return str(data.get("text", data.get("detail", data.get("message", data))))


def words(name: str) -> str:
    """Return a key as words, without the unit that `figure` prints: `measured_ms` is `measured`."""
    return name.removesuffix("_ms").removesuffix("_bytes").removeprefix("num_").replace("_", " ")


def figure(name: str, value: float) -> str:
    """Return a number with the unit its key names; accuracies are shares, shown in per cent."""
    if name.endswith("_ms"):
        return f"{value:.3f} ms" if value < 10 else f"{value:.2f} ms"
    if "accuracy" in name and 0 <= value <= 1:
        return f"{100 * value:.2f} %"
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:.4g}"


def clock(span: timedelta) -> str:
    """Return a duration as `0:42` or `1:02:03`."""
    seconds = max(0, round(span.total_seconds()))
    hours, minutes, seconds = seconds // 3600, seconds // 60 % 60, seconds % 60
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
