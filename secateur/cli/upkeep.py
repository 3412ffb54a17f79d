"""`secateur migrate | gc | backup | restore`: the data of a service whose settings are in this process's environment."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.serve import SERVER_PARTS, require

File = Annotated[Path, typer.Argument(help="The backup.", dir_okay=False, show_default=False)]


def migrate() -> None:
    """Bring the database up to date, as the API does when it starts: before processes of a new version."""
    _run("migrate")


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would go.")] = False,
) -> None:
    """Remove what the service no longer needs, as it does by itself every hour (SECATEUR_KEEP_*)."""
    _run("gc", *(["--dry-run"] if dry_run else []))


def backup(file: File) -> None:
    """Write the database and all stored files, as they are now, into one file; the service may run meanwhile."""
    _run("backup", str(file))


def restore(file: File) -> None:
    """Put a backup into an empty home (and an empty Postgres database); then start the service."""
    _run("restore", str(file))


def _run(*arguments: str) -> None:
    require((*SERVER_PARTS, "obstore"), extra="server")
    os.execv(sys.executable, [sys.executable, "-m", "app.upkeep", *arguments])
