"""Score every unit of every coupling group on images of the user's classes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor

from pruning.groups import coupling_groups
from pruning.saliency import score_all
from workers.context import StepContext
from workers.steps.loading import dense_network, job_images

BASELINE = "random"
NUM_IMAGES = 2048
BATCH_SIZE = 64


def run(context: StepContext) -> dict[str, Any]:
    """Return how many mini-batches counted; leave `saliency.npz` with one array per method and group, and per layer where there are patterns."""
    dense = dense_network(context)
    data = job_images(context, dense)
    sample = data.train.take(NUM_IMAGES, context.seed)
    total = -(-len(sample) // BATCH_SIZE)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for done, batch in enumerate(sample.batches(BATCH_SIZE)):
            context.progress(done / total)
            yield batch

    job = context.spec["job"]
    methods = (job["saliency"], BASELINE)
    scores = score_all(
        dense, coupling_groups(dense), batches(), methods, context.seed, weights=job["patterns"] != "none"
    )
    if scores.num_dropped:
        context.warning("batches_dropped", f"{scores.num_dropped} mini-batches gave gradients that are not finite.")
    arrays = {
        f"units/{method}/{group}": values
        for method, by_group in scores.values.items()
        for group, values in by_group.items()
    }
    for method, by_module in scores.weights.items():
        arrays |= {f"weights/{method}/{module}": values.numpy() for module, values in by_module.items()}
    with context.path("saliency.npz").open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return {"num_batches": scores.num_batches, "num_dropped": scores.num_dropped, "num_images": len(sample)}
