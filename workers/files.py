"""Names of the files that steps hand to each other, where more than one of a kind can be there."""

TABLES = ("table.json", "table_1.json", "table_2.json", "table_3.json", "table_4.json")
"""Latency tables: of the job's own device, then of the devices in `also`, in order."""


def known(table: str) -> str:
    """Return the name of the table the registry held before the job."""
    return f"known_{table}"


KNOWN_TABLES = tuple(known(table) for table in TABLES)
PICTURES = ("staircases.png", "heatmaps.png")
"""What the report shows of the table of the job's own device (`lut.plots`)."""
COMPACT = "model.compact.safetensors"
"""Weights of a network with masks, packed (`pruning.storage`)."""
