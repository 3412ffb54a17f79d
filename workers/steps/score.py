"""Score every unit of every coupling group on images of the user's classes, or of the others where that is asked for."""

from typing import Any

from workers.context import StepContext
from workers.steps import scores
from workers.steps.loading import dense_network, job_images

BASELINE = "random"


def run(context: StepContext) -> dict[str, Any]:
    """Return how many mini-batches counted; leave `saliency.npz` with one array per method and group, and per layer where there are patterns."""
    dense = dense_network(context)
    data = job_images(context, dense)
    methods = tuple(dict.fromkeys((context.spec["job"]["saliency"], BASELINE)))
    found = scores.measured(context, data, dense, methods, progress=context.progress)
    scores.save(context.path("saliency.npz"), {method: scores.saliency_of(found, method) for method in methods})
    return {
        "gradual": context.spec["job"]["schedule"]["mode"] == "gradual",
        "num_batches": found.num_batches,
        "num_dropped": found.num_dropped,
        "num_images": min(scores.NUM_IMAGES, len(data.train)),
    }
