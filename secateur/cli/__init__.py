"""The `secateur` command. Each file beside this one holds the commands of one noun."""

import os
from typing import Annotated

import typer

from secateur import __version__
from secateur.cli import access, builds, inventory, jobs, prune, serve, upkeep
from secateur.cli.common import Commands
from secateur.client import KEY_VARIABLE

app = typer.Typer(
    name="secateur",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"secateur {__version__}")
        raise typer.Exit


@app.callback(
    epilog="Exit codes: 0 budget met or done, 1 failed, 2 wrong usage, 3 budget missed, 4 infeasible, 5 cancelled. "
    "SECATEUR_URL stands for --server, SECATEUR_API_KEY for --key."
)
def main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
    key: Annotated[
        str | None, typer.Option("--key", metavar="KEY", help="API key of the service.", show_default=False)
    ] = None,
) -> None:
    """Prune a vision network to a measured latency budget, for the classes you care about."""
    if key is not None:
        os.environ[KEY_VARIABLE] = key  # where every client of this process finds it


JOBS, SERVICE, STORED, ACCESS = "Jobs", "The service", "What the service holds", "Who may do what"
for command, panel in (
    (prune.prune, JOBS),
    (jobs.jobs, JOBS),
    (jobs.show, JOBS),
    (jobs.watch, JOBS),
    (jobs.cancel, JOBS),
    (jobs.retry, JOBS),
    (jobs.download, JOBS),
    (serve.serve, SERVICE),
    (serve.worker, SERVICE),
    (serve.agent, SERVICE),
    (upkeep.migrate, SERVICE),
    (upkeep.gc, SERVICE),
    (upkeep.backup, SERVICE),
    (upkeep.restore, SERVICE),
    (inventory.models, STORED),
    (inventory.datasets, STORED),
    (inventory.devices, STORED),
    (inventory.luts, STORED),
    (access.whoami, ACCESS),
    (access.audit, ACCESS),
):
    # What follows `secateur worker` and is not its own goes on to the worker as it is.
    settings = {"allow_extra_args": True, "ignore_unknown_options": True} if command is serve.worker else None
    app.command(rich_help_panel=panel, context_settings=settings)(command)

app.add_typer(builds.lut, name="lut", rich_help_panel=STORED)
app.add_typer(access.keys, name="keys", rich_help_panel=ACCESS)
app.add_typer(access.projects, name="projects", rich_help_panel=ACCESS)

__all__ = ["app"]
