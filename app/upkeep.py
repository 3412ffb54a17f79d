"""`python -m app.upkeep migrate | gc | backup FILE | restore FILE`: what an operator does to the data of a service."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from app.backup import BackupError, Contents, back_up, restore
from app.logs import configure_logs
from app.migrate import migrate
from app.retention import Ages, collect
from app.services import open_services
from app.settings import Settings
from app.store.blobs import BlobDamaged, StoreUnavailable


def main(arguments: Sequence[str] | None = None) -> int:
    """Do it and return the exit code; what went, or where the backup lies, is printed."""
    parser = argparse.ArgumentParser(prog="secateur", description="Look after a service's data.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("migrate")
    gc = commands.add_parser("gc")
    gc.add_argument("--dry-run", action="store_true")
    for name in ("backup", "restore"):
        commands.add_parser(name).add_argument("file", type=Path)
    asked = parser.parse_args(arguments)
    settings = Settings()
    configure_logs(settings)
    try:
        if asked.command == "migrate":
            migrate(settings)
        elif asked.command == "gc":
            _collect(settings, dry_run=asked.dry_run)
        elif asked.command == "backup":
            _say(f"{asked.file} holds", back_up(settings, asked.file))
        else:
            _say(f"{settings.home} now holds", restore(settings, asked.file))
    except (BackupError, BlobDamaged, StoreUnavailable, OSError, ValueError) as error:
        print(f"secateur: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _collect(settings: Settings, *, dry_run: bool) -> None:
    migrate(settings)
    services = open_services(settings)
    num_things, num_bytes = 0, 0
    try:
        for gone in collect(services, Ages.of(settings), dry_run=dry_run):
            num_things, num_bytes = num_things + 1, num_bytes + gone.size_bytes
            print(f"{gone.kind:13}{gone.name}  {gone.num_files} files, {gone.size_bytes} bytes")  # noqa: T201
    finally:
        services.close()
    verb = "would go" if dry_run else "went"
    print(f"{num_things} things {verb}, {num_bytes} bytes")  # noqa: T201


def _say(what: str, contents: Contents) -> None:
    print(f"{what} a {contents.kind} database and {contents.num_files} files, {contents.size_bytes} bytes")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
