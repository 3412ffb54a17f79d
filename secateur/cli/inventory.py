"""`secateur models | datasets | devices | luts`: what the service holds."""

from secateur.cli.common import SERVER, Json, Server, age, connect, say_json, show_table, size, table


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
    rows = ([d.id, d.name, d.hardware, f"{d.runtime} {d.runtime_version}"] for d in found)
    return show_table(table(["ID", "NAME", "HARDWARE", "RUNTIME"], rows))


def luts(server: Server = SERVER, json: Json = False) -> None:
    """List the latency tables: what they were measured on, how many entries they hold, how far to trust them."""
    with connect(server) as client:
        found = list(client.luts())
    if json:
        return say_json(found)
    rows = (
        [
            lut.id,
            lut.device_id,
            " ".join(f"{key}={lut.profile[key]}" for key in ("threads", "batch", "dtype") if key in lut.profile),
            f"{lut.num_entries:,}",
            str(lut.num_signatures),
            str(lut.step),
            f"{100 * lut.noise:.1f} %",
            f"{lut.seconds:.0f} s",
            age(lut.updated_at),
        ]
        for lut in found
    )
    headings = ["ID", "DEVICE", "PROFILE", "ENTRIES", "OPERATORS", "STEP", "NOISE", "TOOK", "AGE"]
    return show_table(table(headings, rows, right=headings[3:]))
