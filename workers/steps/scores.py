"""Saliency as the steps hand it on: measured on images of the user's classes, one array per method and name."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pruning.data import Dataset
from pruning.groups import coupling_groups
from pruning.network import Network
from pruning.saliency import OTHER_CLASSES, Scores, score_all
from workers.context import StepContext
from workers.steps.others import other_images
from workers.steps.survivors import Survivors
from workers.steps.workbench import Saliency

NUM_IMAGES = 2048
BATCH_SIZE = 64


def measured(
    context: StepContext,
    data: Dataset,
    network: Network,
    methods: Sequence[str],
    *,
    survivors: Survivors | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Scores:
    """Return the saliencies of `network`, of single weights too where the job has patterns.

    In a gradual job it is `survivors.masked`, and weights behind its masks are scored with the values they have there.
    """
    sample = data.train.take(NUM_IMAGES, context.seed)
    total = -(-len(sample) // BATCH_SIZE)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for done, batch in enumerate(sample.batches(BATCH_SIZE)):
            progress(done / total)
            yield batch

    others = other_images(context, NUM_IMAGES, BATCH_SIZE, survivors) if OTHER_CLASSES in methods else None
    weights = context.spec["job"]["patterns"] != "none"
    scores = score_all(
        network,
        coupling_groups(network),
        batches(),
        methods,
        context.seed,
        others=others,
        weights=weights,
        behind=survivors.behind if survivors else {},
    )
    if scores.num_dropped:
        context.warning("batches_dropped", f"{scores.num_dropped} mini-batches gave gradients that are not finite.")
    return scores


def saliency_of(scores: Scores, method: str) -> Saliency:
    """Return one method's word."""
    return Saliency(units=scores.values[method], weights=scores.weights.get(method, {}))


def save(path: Path, found: dict[str, Saliency]) -> None:
    """Write saliency by method."""
    arrays: dict[str, np.ndarray] = {}
    for method, saliency in found.items():
        arrays |= {f"units/{method}/{group}": values for group, values in saliency.units.items()}
        arrays |= {f"weights/{method}/{module}": values.numpy() for module, values in saliency.weights.items()}
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def load(path: Path) -> dict[str, Saliency]:
    """Return saliency by method."""
    units: dict[str, dict[str, np.ndarray]] = {}
    weights: dict[str, dict[str, Tensor]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            kind, method, name = key.split("/", 2)
            if kind == "units":
                units.setdefault(method, {})[name] = arrays[key]
            else:
                weights.setdefault(method, {})[name] = torch.from_numpy(arrays[key])
    return {method: Saliency(units=units[method], weights=weights.get(method, {})) for method in units}
