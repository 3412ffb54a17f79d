"""Check an uploaded zip of images: every image is decoded once."""

from typing import Any

from pruning.data import inspect_zip
from workers.context import StepContext, StepProblem
from workers.steps.loading import problems, zip_limits

NUM_LISTED = 50


def run(context: StepContext) -> dict[str, Any]:
    """Return classes, num_images by split, num_skipped and the first skipped files with reasons."""
    row = context.spec["dataset"]
    with problems():
        summary = inspect_zip(context.path("dataset.zip"), zip_limits(context.spec["limits"]), context.progress)
    class_map = row.get("class_map") or {}
    if unknown := sorted(set(class_map) - set(summary.classes)):
        raise StepProblem(
            "bad_class_map",
            f"The class map names folders that are not in train/: {', '.join(unknown[:20])}.",
            [{"pointer": f"/class_map/{name}", "detail": "no such folder"} for name in unknown[:100]],
        )
    return {
        "classes": list(summary.classes),
        "num_images": summary.num_images,
        "num_skipped": len(summary.skipped),
        "skipped": [f"{path}: {reason}" for path, reason in summary.skipped[:NUM_LISTED]],
    }
