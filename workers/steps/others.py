"""Images of the classes a job does not name, for the saliency that is measured on them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pruning.data import DataError
from pruning.evaluate import class_rows
from pruning.groups import coupling_groups
from pruning.network import Network
from pruning.saliency import OTHER_CLASSES, Others
from pruning.stages import build
from workers.context import StepContext, StepProblem
from workers.steps.loading import full_network, images
from workers.steps.survivors import Survivors

MOST_CLASSES = 64
"""Of a data set with hundreds of classes, this many others are drawn: more would only be decoded."""


def other_rows(spec: Mapping[str, Any], classes: Sequence[str], network: Network) -> dict[str, int]:
    """Return the output row of each class of the data set that the job does not name, as far as it is known without images.

    Empty where the job's saliency needs none. Raises StepProblem when it needs some and there is none.
    """
    if spec["job"]["saliency"] != OTHER_CLASSES:
        return {}
    dataset, rows = spec["dataset"], dict[str, int]()
    for name in sorted(set(dataset["classes"]) - set(classes)):
        try:
            found = class_rows(
                dataset["classes"],
                [name],
                network.num_outputs,
                class_map=dataset["class_map"],
                class_names=spec["model"]["class_names"],
            )
        except DataError:
            continue  # another of them may do
        rows |= found.rows
    if not rows:
        raise StepProblem(
            "no_other_classes",
            "The saliency `other_classes` scores on classes of the data set that the job does not name, and there is none whose "
            "output row is known: name fewer classes, or send the data set with a class_map (folder name -> output row of the model).",
        )
    return rows


def other_images(context: StepContext, num_images: int, batch_size: int, survivors: Survivors | None = None) -> Others:
    """Return the network with its whole head, narrowed to the survivors, and images of classes the job does not name."""
    network = full_network(context)
    known = other_rows(context.spec, context.spec["results"]["prepare"]["classes"], network)
    chosen = sorted(np.random.default_rng(context.seed).permutation(sorted(known))[:MOST_CLASSES].tolist())
    sample = images(context, chosen, network.input_shape[0]).train.take(num_images, context.seed)
    rows = torch.tensor([known[name] for name in chosen])
    if survivors:
        network = build(network, coupling_groups(network), survivors.keep, survivors.removed)
        whole = network.module.state_dict()
        trained = survivors.masked.module.state_dict()
        # The head that learnt has the job's classes alone: this one keeps its own.
        same = {name: value for name, value in trained.items() if value.shape == whole[name].shape}
        network.module.load_state_dict(same, strict=False)
    return Others(network=network, batches=((x, rows[labels]) for x, labels in sample.batches(batch_size)))
