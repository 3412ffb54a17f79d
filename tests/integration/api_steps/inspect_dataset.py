"""Counts the images of a zip."""

import zipfile
from collections import Counter
from typing import Any

from workers.context import StepContext, StepProblem


def run(context: StepContext) -> dict[str, Any]:
    """List the archive."""
    try:
        with zipfile.ZipFile(context.path("dataset.zip")) as archive:
            parts = [name.split("/") for name in archive.namelist()]
    except zipfile.BadZipFile as error:
        raise StepProblem("broken_zip", str(error), [{"pointer": "file", "detail": str(error)}]) from error
    return {
        "classes": sorted({part[1] for part in parts}),
        "num_images": dict(Counter(part[0] for part in parts)),
        "num_skipped": 0,
        "skipped": [],
    }
