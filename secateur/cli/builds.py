"""`secateur lut build | builds | watch | cancel | retry`."""

from functools import partial
from typing import Annotated, Any

import typer

from secateur.cli import flags
from secateur.cli.common import SERVER, ExitCode, Json, Server, age, connect, say, say_json, show_table, table
from secateur.cli.inputs import local, transfer_bar
from secateur.cli.luts import lut, print_lut
from secateur.cli.options import default_image_size, model_arch, split_names
from secateur.cli.watching import watched
from secateur.client import Client
from secateur.errors import NotFound, UsageError
from secateur.lut_schemas import LutBuild
from secateur.schemas import JobStatus, Model

__all__ = ["lut"]

BuildId = Annotated[str, typer.Argument(metavar="BUILD", help="Id of the build.", show_default=False)]


@lut.command()
def build(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Weights, an .onnx file, or the id of a model.")],
    arch: Annotated[str | None, typer.Option(help="Architecture of the weights.", show_default=False)] = None,
    image_size: Annotated[
        int | None, typer.Option(min=8, help="Side in pixels; left out: the network's usual.", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="Device to measure on.")] = "local",
    runtime: Annotated[
        str | None, typer.Option(help="What runs the network; left out: onnxruntime.", show_default=False)
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of an inference.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Images of an inference.")] = 1,
    patterns: Annotated[bool, typer.Option("--patterns", help="Entries of masked layers too.")] = False,
    pattern_choices: Annotated[
        list[str] | None, typer.Option(help="Masks to measure: 64x1@1/4,32x1@1/2", show_default=False)
    ] = None,
    priority: flags.Priority = 0,
    timeout_minutes: flags.TimeoutMinutes = None,
    after: flags.After = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Start, print the build's id and leave.")] = False,
    server: Server = SERVER,
    json: Json = False,
) -> None:
    """Measure every entry a network needs, without pruning anything. Ctrl-C leaves the build to itself."""
    fields: dict[str, Any] = {"device": device, "runtime": runtime, "threads": threads, "batch": batch}
    fields |= {"priority": priority, "timeout_minutes": timeout_minutes, "after": split_names(after)}
    if patterns or pattern_choices:
        fields["patterns"] = "auto"
    if pattern_choices:
        fields["pattern_choices"] = split_names(pattern_choices)
    with connect(server) as client:
        stored = _model(client, model, arch, quiet=json)
        fields["image_size"] = image_size or default_image_size(stored.arch, stored.input_shape)
        begun = client.build_lut(stored.id, **fields)
        if detach:
            return say_json(begun) if json else typer.echo(begun.id)
        wait = partial(client.wait_build, begun.id, check=False)
        ended = watched(wait, f"secateur lut watch {begun.id}", json=json)
        _say_end(client, ended, json=json)
    raise typer.Exit(_exit_code(ended))


@lut.command()
def watch(
    build_id: BuildId,
    server: Server = SERVER,
    json: Json = False,
) -> None:
    """Follow a build until it ends."""
    with connect(server) as client:
        ended = watched(partial(client.wait_build, build_id, check=False), f"secateur lut watch {build_id}", json=json)
        _say_end(client, ended, json=json)
    raise typer.Exit(_exit_code(ended))


@lut.command()
def builds(server: Server = SERVER, json: Json = False) -> None:
    """List the builds, newest first."""
    with connect(server) as client:
        found = list(client.lut_builds())
    if json:
        return say_json(found)
    rows = (
        [
            one.id,
            str(one.status),
            f"{100 * one.progress:.0f} %",
            one.spec.device,
            one.spec.model_id,
            age(one.created_at),
        ]
        for one in found
    )
    return show_table(table(["ID", "STATUS", "DONE", "DEVICE", "MODEL", "AGE"], rows, right=["DONE", "AGE"]))


@lut.command()
def cancel(
    build_id: BuildId,
    server: Server = SERVER,
    json: Json = False,
) -> None:
    """Stop a build; `secateur lut retry` goes on where it stopped."""
    with connect(server) as client:
        _say_state(client.cancel_build(build_id), json=json)


@lut.command()
def retry(
    build_id: BuildId,
    server: Server = SERVER,
    json: Json = False,
) -> None:
    """Go on with a failed or cancelled build."""
    with connect(server) as client:
        _say_state(client.retry_build(build_id), json=json)


def _model(client: Client, text: str, arch: str | None, *, quiet: bool) -> Model:
    path = local(text)
    if path is None:
        try:
            return client.model(text)
        except NotFound as error:
            raise UsageError(f"{text} is neither a file here nor a model on the server") from error
    with transfer_bar(f"sending {path.name}", quiet=quiet) as on_progress:
        return client.upload_model(path, arch=model_arch(path, arch), on_progress=on_progress)


def _say_state(state: LutBuild, *, json: bool) -> None:
    if json:
        say_json(state)
    else:
        say(f"build {state.id} is {state.status}")


def _say_end(client: Client, ended: LutBuild, *, json: bool) -> None:
    if json:
        return say_json({"kind": "result", "build": ended}, line=True)
    if ended.failure:
        say(f"the build failed: {ended.failure.detail} ({ended.failure.code})")
    if ended.status == JobStatus.SUCCEEDED and ended.tables:
        print_lut(client.lut(ended.tables[0].lut_id))
    return None


def _exit_code(ended: LutBuild) -> ExitCode:
    ends = {JobStatus.SUCCEEDED: ExitCode.MET, JobStatus.CANCELLED: ExitCode.CANCELLED}
    return ends.get(ended.status, ExitCode.FAILED)
