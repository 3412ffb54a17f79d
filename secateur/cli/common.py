"""What every command shares: where the server is, how answers are printed, how errors are said, how it exits."""

import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import IntEnum
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from secateur.client import DEFAULT_URL, Client
from secateur.errors import ApiError, ConnectionFailed, SecateurError, UsageError
from secateur.schemas import ErrorDetail, JobStatus, PruneJob

Server = Annotated[
    str,
    typer.Option("--server", envvar="SECATEUR_URL", metavar="URL", help="Address of the service.", show_envvar=True),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")]
SERVER = DEFAULT_URL


class ExitCode(IntEnum):
    """What a script can tell from the command's end."""

    MET = 0
    FAILED = 1
    USAGE = 2
    MISSED = 3
    INFEASIBLE = 4
    CANCELLED = 5
    INTERRUPTED = 130  # 128 + SIGINT, as shells count


def exit_code(job: PruneJob) -> ExitCode:
    """Return the code that says how an ended job ended."""
    if job.status == JobStatus.CANCELLED:
        return ExitCode.CANCELLED
    if job.status != JobStatus.SUCCEEDED:
        return ExitCode.FAILED
    ends = {"budget_met": ExitCode.MET, "budget_missed": ExitCode.MISSED, "infeasible": ExitCode.INFEASIBLE}
    return ends.get(job.outcome or "", ExitCode.FAILED)


class Commands(TyperGroup):
    """The group of all commands; an expected error leaves it as one sentence on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except SecateurError as error:
            complain(error)
            raise typer.Exit(ExitCode.USAGE if isinstance(error, UsageError) else ExitCode.FAILED) from error


def complain(error: SecateurError) -> None:
    """Say on stderr what went wrong, then each fault with its pointer, then what to do where that is known."""
    say(f"secateur: {error}")
    if isinstance(error, ApiError):
        for fault in error.problem.errors:
            say(pointed(fault, error.problem.detail))
    if isinstance(error, ApiError) and error.status == 401:
        say("name a key with `secateur --key KEY ...` or SECATEUR_API_KEY; `secateur keys create` makes one")
    if isinstance(error, ConnectionFailed):
        say("start a server with `secateur serve`, or name another with --server or SECATEUR_URL")


def pointed(fault: ErrorDetail, said: str) -> str:
    """Return one fault as a line, without what the sentence `said` before has told already."""
    if fault.detail == said:
        return f"  at {fault.pointer}"
    return f"  {fault.pointer}: {fault.detail}" if fault.pointer else f"  {fault.detail}"


def say(text: str) -> None:
    """Print a line for people: on stderr, so that stdout stays data."""
    typer.echo(text, err=True)


def say_json(value: Any, *, line: bool = False) -> None:
    """Print a JSON document on stdout; `line=True` keeps it on one line."""
    typer.echo(json.dumps(plain(value), indent=None if line else 2, ensure_ascii=False))


def plain(value: Any) -> Any:
    """Return wire bodies, alone or inside lists and dicts, as JSON types."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def table(headings: Iterable[str], rows: Iterable[Iterable[str]], *, right: Iterable[str] = ()) -> Table:
    """Return a plain table; what the cells say is printed as it is, brackets too."""
    headings, right = list(headings), set(right)
    made = Table(box=None, pad_edge=False, header_style="bold", show_header=any(headings))
    for index, heading in enumerate(headings):
        made.add_column(
            Text(heading), justify="right" if heading in right else "left", no_wrap=index == 0, overflow="fold"
        )
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def show_table(made: Table) -> None:
    """Print a table on stdout; when that is not a terminal, as wide as it needs to be."""
    console = Console()
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=240)
    console.print(made)


def age(moment: datetime) -> str:
    """Return how long ago something was, coarsely: `12 s`, `5 min`, `3 h`, `2 d`."""
    seconds = max(0.0, (datetime.now(UTC) - moment).total_seconds())
    for unit, length, limit in (("s", 1, 90), ("min", 60, 5400), ("h", 3600, 172_800)):
        if seconds < limit:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def size(size_bytes: float) -> str:
    """Return a number of bytes for people: `873 B`, `3.4 MB`."""
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} GB"


def connect(server: str) -> Client:
    """Return a client of the server named on the command line."""
    if not server.startswith(("http://", "https://")):
        raise UsageError(f"--server takes an address such as {DEFAULT_URL}, not {server!r}")
    return Client(server)
