"""`secateur whoami | keys | projects | audit`: who may do what, and who did."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from secateur.access_schemas import Limits, Project, Scope
from secateur.cli.common import SERVER, Json, Server, age, connect, say, say_json, show_table, size, table
from secateur.errors import UsageError

keys = typer.Typer(no_args_is_help=True, help="API keys: create, list, revoke.")
projects = typer.Typer(no_args_is_help=True, help="Projects: create, list, limits.")

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}
_NO_LIMIT = "0: none; -1: the service's own."

Requests = Annotated[int | None, typer.Option("--requests", min=-1, help=f"A key's requests a minute. {_NO_LIMIT}")]
Uploads = Annotated[int | None, typer.Option("--uploads", min=-1, help=f"A key's uploads an hour. {_NO_LIMIT}")]
ActiveJobs = Annotated[int | None, typer.Option("--jobs", min=-1, help=f"Jobs that have not ended. {_NO_LIMIT}")]
Stored = Annotated[int | None, typer.Option("--bytes", min=-1, help=f"Bytes stored. {_NO_LIMIT}")]


def whoami(server: Server = SERVER, json: Json = False) -> None:
    """Say whom the service takes you for."""
    with connect(server) as client:
        found = client.whoami()
    if json:
        return say_json(found)
    project = f"project {found.project.name} ({found.project.id})"
    if found.key is None:
        return typer.echo(f"{project}: the service asks nobody for a key")
    ends = f", until {found.key.expires_at:%Y-%m-%d %H:%M} UTC" if found.key.expires_at else ""
    return typer.echo(f"{found.key.name} ({found.key.prefix}…), {project}: {', '.join(found.scopes)}{ends}")


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What the key is for.", show_default=False)],
    scope: Annotated[
        list[Scope] | None, typer.Option(help="What it may do; again for more. [default: read, submit]")
    ] = None,
    project: Annotated[str | None, typer.Option(help="Id of its project; left out: yours.", show_default=False)] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="After how long it ends: 12h, 30d, 4w.", show_default=False)
    ] = None,
    server: Server = SERVER,
    json: Json = False,
) -> None:
    """Make a key of your project, which is shown this once. It may do no more than yours."""
    scopes = list(scope or (Scope.READ, Scope.SUBMIT))
    with connect(server) as client:
        made = client.create_key(name, scopes=scopes, project_id=project, expires_at=_moment(expires))
    if json:
        return say_json(made)
    say(f"key {made.id}; it is not shown again:")
    return typer.echo(made.key)


@keys.command("list")
def list_keys(
    project: Annotated[str | None, typer.Option(help="Only keys of this project.", show_default=False)] = None,
    server: Server = SERVER,
    json: Json = False,
) -> None:
    """List your key and those it made; all keys, if you are an administrator."""
    with connect(server) as client:
        found = list(client.keys(project_id=project))
    if json:
        return say_json(found)
    rows = [
        [
            one.id,
            one.prefix,
            one.name,
            one.project_id,
            ",".join(one.scopes),
            "revoked" if one.revoked_at else f"{one.expires_at:%Y-%m-%d %H:%M}" if one.expires_at else "-",
            age(one.last_used_at) if one.last_used_at else "never",
        ]
        for one in found
    ]
    return show_table(table(["ID", "PREFIX", "NAME", "PROJECT", "SCOPES", "ENDS", "USED"], rows, right=["USED"]))


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="Id of the key.", show_default=False)],
    server: Server = SERVER,
    json: Json = False,
) -> None:
    """End a key at once, and those derived from it."""
    with connect(server) as client:
        ended = client.revoke_key(key_id)
    return say_json(ended) if json else say(f"revoked {ended.id} ({ended.prefix}…)")


@projects.command("create")
def create_project(
    name: Annotated[str, typer.Argument(help="What to call it.", show_default=False)],
    requests: Requests = None,
    uploads: Uploads = None,
    jobs: ActiveJobs = None,
    stored: Stored = None,
    server: Server = SERVER,
    json: Json = False,
) -> None:
    """Make a project, whose things no other project sees."""
    with connect(server) as client:
        limits = _limits(Limits(), requests, uploads, jobs, stored)
        made = client.create_project(name, **limits.model_dump())
    return say_json(made) if json else typer.echo(made.id)


@projects.command("list")
def list_projects(server: Server = SERVER, json: Json = False) -> None:
    """List the projects with what they use."""
    with connect(server) as client:
        found = list(client.projects())
    return say_json(found) if json else _show(found)


@projects.command("limits")
def limits(
    project_id: Annotated[str, typer.Argument(metavar="PROJECT", help="Id of the project.", show_default=False)],
    requests: Requests = None,
    uploads: Uploads = None,
    jobs: ActiveJobs = None,
    stored: Stored = None,
    server: Server = SERVER,
    json: Json = False,
) -> None:
    """Change how much a project may use; what is left out stays as it is."""
    with connect(server) as client:
        known = client.project(project_id)
        wanted = _limits(known.limits, requests, uploads, jobs, stored)
        changed = client.change_project(project_id, limits=wanted) if wanted != known.limits else known
    return say_json(changed) if json else _show([changed])


def audit(
    key: Annotated[str | None, typer.Option(help="Only what this key (its id) did.", show_default=False)] = None,
    object_id: Annotated[str | None, typer.Option("--object", help="Only what was done to it.")] = None,
    status: Annotated[int | None, typer.Option(help="Only answers of this status.", show_default=False)] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Newest rows to show.")] = 50,
    server: Server = SERVER,
    json: Json = False,
) -> None:
    """Show who changed what and who was refused, newest first."""
    with connect(server) as client:
        rows = client.audit(key_id=key, object_id=object_id, status=status, limit=min(limit, 200))
        found = [row for row, _ in zip(rows, range(limit), strict=False)]
    if json:
        return say_json(found)
    cells = [
        [f"{one.created_at:%Y-%m-%d %H:%M:%S}", str(one.status), one.action, one.object_id or "", one.key_id or "", one.address]
        for one in found
    ]  # fmt: skip
    return show_table(table(["WHEN (UTC)", "STATUS", "REQUEST", "OBJECT", "KEY", "FROM"], cells, right=["STATUS"]))


def _show(found: list[Project]) -> None:
    rows = [
        [one.id, one.name, str(one.num_active_jobs), size(one.stored_bytes), _said(one.limits), age(one.created_at)]
        for one in found
    ]
    show_table(table(["ID", "NAME", "JOBS", "STORED", "LIMITS", "AGE"], rows, right=["JOBS", "STORED", "AGE"]))


def _said(own: Limits) -> str:
    given = own.model_dump(exclude_none=True)
    return ", ".join(f"{name.removeprefix('max_')} {value or 'any'}" for name, value in given.items()) or "-"


def _limits(known: Limits, *given: int | None) -> Limits:
    values: dict[str, Any] = known.model_dump()
    for name, value in zip(Limits.model_fields, given, strict=True):
        if value is not None:
            values[name] = None if value < 0 else value
    return Limits.model_validate(values)


def _moment(after: str | None) -> datetime | None:
    if after is None:
        return None
    found = re.fullmatch(r"(\d{1,5})([hdw])", after)
    if found is None:
        raise UsageError(f"--expires takes a time such as 12h, 30d or 4w, not {after!r}")
    return datetime.now(UTC) + timedelta(**{_UNITS[found[2]]: int(found[1])})
