"""`secateur models | datasets | devices | luts`: what the service holds."""

from typing import Annotated

import typer

from secateur.cli.common import SERVER, Json, Server, age, connect, say_json, show_table, size, table
from secateur.lut_schemas import Device


def models(server: Server = SERVER, json: Json = False) -> None:
    """List the uploaded models."""
    with connect(server) as client:
        found = list(client.models())
    if json:
        return say_json(found)
    rows = (
        [m.id, m.name, m.arch, f"{m.num_parameters:,}", str(m.num_outputs), size(m.size_bytes), age(m.created_at)]
        for m in found
    )
    headings = ["ID", "NAME", "ARCH", "PARAMETERS", "OUTPUTS", "SIZE", "AGE"]
    return show_table(table(headings, rows, right=["PARAMETERS", "OUTPUTS", "SIZE", "AGE"]))


def datasets(server: Server = SERVER, json: Json = False) -> None:
    """List the uploaded datasets."""
    with connect(server) as client:
        found = list(client.datasets())
    if json:
        return say_json(found)
    rows = (
        [
            d.id,
            d.name,
            str(len(d.classes)),
            ", ".join(f"{split} {count:,}" for split, count in d.num_images.items()),
            f"{d.num_skipped:,}",
            f"{d.image_size} px",
            age(d.created_at),
        ]
        for d in found
    )
    headings = ["ID", "NAME", "CLASSES", "IMAGES", "SKIPPED", "SIDE", "AGE"]
    return show_table(table(headings, rows, right=["CLASSES", "SKIPPED", "SIDE", "AGE"]))


def devices(server: Server = SERVER, json: Json = False) -> None:
    """List the devices that jobs can be measured on."""
    with connect(server) as client:
        found = list(client.devices())
    if json:
        return say_json(found)
    rows = ([d.id, d.name, d.hardware, f"{d.runtime} {d.runtime_version}", _agent(d)] for d in found)
    return show_table(table(["ID", "NAME", "HARDWARE", "RUNTIME", "AGENT"], rows))


def _agent(device: Device) -> str:
    if device.online or device.last_seen_at is None:
        return "online" if device.online else ""
    return f"offline, seen {age(device.last_seen_at)} ago"


def luts(
    device: Annotated[str | None, typer.Option(help="Only tables of this device.", show_default=False)] = None,
    runtime: Annotated[str | None, typer.Option(help="Only of this runtime.", show_default=False)] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Only of so many threads.", show_default=False)] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Only of this batch.", show_default=False)] = None,
    published: Annotated[
        bool | None, typer.Option("--published/--unpublished", help="Only published tables.", show_default=False)
    ] = None,
    server: Server = SERVER,
    json: Json = False,
) -> None:
    """List the latency tables: what they were measured on, how many entries they hold, how far to trust them."""
    with connect(server) as client:
        wanted = {"device": device, "runtime": runtime, "threads": threads, "batch": batch, "published": published}
        found = list(client.luts(**wanted))
    if json:
        return say_json(found)
    rows = (
        [
            lut.id,
            lut.device_id,
            " ".join(f"{key}={lut.profile[key]}" for key in ("runtime", "threads", "batch") if key in lut.profile),
            str(lut.version) + ("" if lut.published_version is None else f" (published {lut.published_version})"),
            f"{lut.num_entries:,}",
            str(lut.num_signatures),
            str(lut.step),
            f"{100 * lut.noise:.1f} %",
            "" if lut.residual is None else f"{100 * lut.residual:.1f} %",
            f"{lut.seconds:.0f} s",
            age(lut.updated_at),
        ]
        for lut in found
    )
    headings = ["ID", "DEVICE", "PROFILE", "VERSION", "ENTRIES", "OPERATORS", "STEP", "NOISE", "ERROR", "TOOK", "AGE"]
    return show_table(table(headings, rows, right=headings[4:]))
