"""`secateur lut import | export | publish | unpublish | compare | delete | show`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from secateur.cli.common import (
    SERVER,
    Json,
    Server,
    age,
    connect,
    say,
    say_json,
    show_table,
    size,
    table,
)
from secateur.cli.inputs import transfer_bar
from secateur.errors import UsageError
from secateur.lut_schemas import Lut

lut = typer.Typer(no_args_is_help=True, help="Latency tables: build, import, export, publish, compare, show, delete.")

LutId = Annotated[str, typer.Argument(metavar="TABLE", help="Id of the table.", show_default=False)]
Version = Annotated[int | None, typer.Option(min=1, help="A version; left out: the newest.", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
COARSE = "its key knows no padding, bias or fused operators, and what is no convolution costs nothing"


@lut.command()
def show(lut_id: LutId, server: Server = SERVER, json: Json = False) -> None:
    """Show one table: its profile, how far it can be trusted, its versions."""
    with connect(server) as client:
        found, versions = client.lut(lut_id), list(client.lut_versions(lut_id))
    if json:
        return say_json({"lut": found, "versions": versions})
    print_lut(found)
    rows = (
        [
            str(one.number) + (" published" if one.number == found.published_version else ""),
            f"{one.num_entries:,}",
            size(one.size_bytes),
            one.job_id or f"import {one.name}".rstrip(),
            one.sha256[:12],
            age(one.created_at),
        ]
        for one in versions
    )
    headings = ["VERSION", "ENTRIES", "SIZE", "FROM", "SHA-256", "AGE"]
    return show_table(table(headings, rows, right=["ENTRIES", "SIZE", "AGE"]))


@lut.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A table as JSON (as export writes it) or CSV.", show_default=False)],
    device: Annotated[str, typer.Option(help="Device it belongs to; made, if there is none of this name.")],
    hardware: Annotated[str | None, typer.Option(help="CSV: what it was measured on.", show_default=False)] = None,
    runtime: Annotated[str | None, typer.Option(help="CSV: what ran it.", show_default=False)] = None,
    runtime_version: Annotated[str | None, typer.Option(help="CSV: its version.", show_default=False)] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CSV: threads.", show_default=False)] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="CSV: the batch to read.", show_default=False)] = None,
    dtype: Annotated[str | None, typer.Option(help="CSV: numbers it computed with.", show_default=False)] = None,
    layout: Annotated[str | None, typer.Option(help="CSV: layout of the maps.", show_default=False)] = None,
    huge_pages: Annotated[bool | None, typer.Option("--huge-pages", help="CSV: memory was in huge pages.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call the file.", show_default=False)] = None,
    server: Server = SERVER,
    json: Json = False,
) -> None:
    """Import a table that was measured elsewhere, or merge it into the one that is there."""
    about = {
        "hardware": hardware, "runtime": runtime, "runtime_version": runtime_version, "threads": threads, "batch": batch,
        "dtype": dtype, "layout": layout, "huge_pages": huge_pages,
    }  # fmt: skip
    given = {key: value for key, value in about.items() if value is not None}
    if not file.is_file():
        raise UsageError(f"there is no file {file}")
    with connect(server) as client:
        if device not in {one.id for one in client.devices()}:
            client.create_device(device, hardware=hardware or "", **({"runtime": runtime} if runtime else {}))
        with transfer_bar(f"sending {file.name}", quiet=json) as on_progress:
            made = client.import_lut(file, device=device, name=name, on_progress=on_progress, **given)
    if json:
        return say_json(made)
    return print_lut(made)


@lut.command()
def export(
    lut_id: LutId,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write [default: ./TABLE.json]")] = None,
    format: Annotated[Literal["json", "csv"], typer.Option(help="CSV lacks the profile.")] = "json",
    version: Version = None,
    server: Server = SERVER,
    json: Json = False,
) -> None:
    """Save a table as a file."""
    path = out or Path(f"{lut_id}.{format}")
    with connect(server) as client, waiting("a worker writes the file", quiet=json or format == "json"):
        client.export_lut(lut_id, path, format=format, version=version)
    if json:
        return say_json({"path": str(path), "size_bytes": path.stat().st_size})
    return say(f"saved {path}")


@lut.command()
def publish(lut_id: LutId, version: Version = None, server: Server = SERVER, json: Json = False) -> None:
    """Make a table the team's reference: no import changes it, nobody deletes it."""
    with connect(server) as client:
        found = client.publish_lut(lut_id, version=version)
    return say_json(found) if json else print_lut(found)


@lut.command()
def unpublish(lut_id: LutId, server: Server = SERVER, json: Json = False) -> None:
    """Let a table be changed and deleted again."""
    with connect(server) as client:
        found = client.unpublish_lut(lut_id)
    return say_json(found) if json else print_lut(found)


@lut.command()
def delete(lut_id: LutId, yes: Yes = False, server: Server = SERVER, json: Json = False) -> None:
    """Delete a table with all its versions."""
    with connect(server) as client:
        found = client.lut(lut_id)
        if not yes and not json:
            typer.confirm(f"delete {found.num_entries:,} entries of {found.device_id} for good?", abort=True, err=True)
        client.delete_lut(lut_id)
    return say_json({"deleted": lut_id}) if json else say(f"deleted {lut_id}")


@lut.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="TABLE", help="Id of a table.")],
    b: Annotated[str, typer.Argument(metavar="OTHER", help="Id of the other one.")],
    server: Server = SERVER,
    json: Json = False,
) -> None:
    """Compare two tables over the entries both have."""
    with connect(server) as client, waiting("a worker compares", quiet=json):
        found = client.compare_luts(a, b)
    if json:
        return say_json(found)
    typer.echo(
        f"{found.num_shared:,} entries are in both, {found.only_a:,} in the first alone, {found.only_b:,} in the other."
    )
    if found.ratio_median is not None and found.ratio_p90 is not None:
        typer.echo(f"The other takes {found.ratio_median:.3f} times as long (median; p90 {found.ratio_p90:.3f}).")
    if found.rank_correlation is not None:
        typer.echo(f"Their ranks correlate with {found.rank_correlation:.3f}.")
    return None


def print_lut(found: Lut) -> None:
    """Print a table's figures."""
    profile = found.profile
    published = "unpublished" if found.published_version is None else f"version {found.published_version} published"
    typer.echo(f"{found.id}  version {found.version}, {published}")
    typer.echo(f"{found.device_id}: {profile['hardware']}, {profile['runtime']} {profile['runtime_version']}".rstrip())
    pages = ", huge pages" if profile.get("huge_pages") else ""
    typer.echo(
        f"threads {profile['threads']}, batch {profile['batch']}, {profile['dtype']}, {profile['layout']}{pages}"
    )
    typer.echo(f"{found.num_entries:,} entries of {found.num_signatures} operators, stair {found.step}")
    if found.coarse:
        typer.echo(f"coarse: {COARSE}")
    if found.residual is not None:
        typer.echo(f"{found.num_pairs} jobs: median error {100 * found.residual:.1f} %")


@contextmanager
def waiting(text: str, *, quiet: bool) -> Iterator[None]:
    """Show on a terminal that something is being waited for."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield
        return
    with console.status(text):
        yield
