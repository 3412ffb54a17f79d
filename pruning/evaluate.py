"""How well a network tells the user's classes apart, and which output row stands for which class.

Letters: n = images of a split, k = classes, o = outputs of the network.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from torch import Tensor
from torch.nn import functional

from pruning.data import DataError, Split
from pruning.network import Network
from pruning.onnx_export import INPUT, OUTPUT, write
from pruning.onnx_functions import NoRule

MAX_BATCH = 128
BATCH_VALUES = 1 << 22
"""Numbers in a batch of images: about 28 images of 224 x 224."""
MIN_AGREEMENT = 0.5
"""Share of a class's training images that must be predicted as one row before the row is taken for the class."""


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Share of images predicted right."""

    overall: float
    per_class: tuple[float, ...]
    """By label; NaN for a class without images."""
    loss: float
    """Mean cross entropy, nats."""
    num_images: int


@dataclass(frozen=True, kw_only=True)
class ClassMap:
    """Which output row of the network stands for each class folder, and how that is known."""

    rows: dict[str, int]
    source: str
    """`given`, `names`, `order` or `predictions`."""
    agreement: dict[str, float]
    """Share of the folder's training images that the dense network predicts as this row; empty when not asked."""


def logits(network: Network, split: Split) -> Tensor:
    """Return float32 [n, o]: the network's outputs on a split, in evaluation mode, nothing augmented.

    ONNX Runtime computes them, two to eight times as fast as eager PyTorch on a CPU; PyTorch those of a network with
    operations that we write no ONNX for, and of one that lies on a GPU.
    """
    network.module.eval()
    device = next((one.device for one in network.module.parameters()), torch.device("cpu"))
    batch_size = max(8, min(MAX_BATCH, BATCH_VALUES // math.prod(network.input_shape)))
    forward = (_in_runtime(network, batch_size) if device.type == "cpu" else None) or network.module
    with torch.inference_mode():
        parts = [forward(images.to(device)).float().cpu() for images, _ in split.batches(batch_size)]
    return torch.cat(parts) if parts else torch.empty(0, network.num_outputs)


def _in_runtime(network: Network, batch_size: int) -> Callable[[Tensor], Tensor] | None:
    """Return what gives the network's outputs for up to `batch_size` images; None where we cannot write its ONNX."""
    try:
        model = write(network, batch_size).SerializeToString()
    except NoRule:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Idle threads that spin would take the processor from PyTorch's.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def forward(images: Tensor) -> Tensor:
        whole = torch.zeros(batch_size, *network.input_shape)
        whole[: len(images)] = images
        (outputs,) = session.run([OUTPUT], {INPUT: whole.numpy()})
        return torch.from_numpy(outputs[: len(images)])

    return forward


def accuracy(network: Network, split: Split, rows: Sequence[int] | None = None) -> Accuracy:
    """Return the network's accuracy on a split.

    Args:
        network: k outputs in the order of the labels (a sliced head), or any o outputs together with `rows`.
        split: the images; label j is the j-th class.
        rows: output row of each label, where the head is whole or masked; a prediction counts as right when the largest
            of *all* outputs is the row of the label.
    """
    return accuracy_of(logits(network, split), split.labels, rows)


def accuracy_of(outputs: Tensor, labels: np.ndarray, rows: Sequence[int] | None = None) -> Accuracy:
    """Return the accuracy of outputs [n, o] that were computed elsewhere (by a runtime, on a device)."""
    num_classes = len(rows) if rows is not None else outputs.shape[1]
    label_rows = np.asarray(rows if rows is not None else range(num_classes), dtype=np.int64)
    target = label_rows[labels]
    right = outputs.argmax(dim=1).numpy() == target
    per_class = tuple(
        float(right[labels == k].mean()) if (labels == k).any() else float("nan") for k in range(num_classes)
    )
    loss = float(functional.cross_entropy(outputs, torch.from_numpy(target)))
    return Accuracy(overall=_mean(right), per_class=per_class, loss=loss, num_images=len(labels))


def class_rows(
    folders: Sequence[str],
    wanted: Sequence[str],
    num_outputs: int,
    *,
    class_map: Mapping[str, int] | None = None,
    class_names: Sequence[str] | None = None,
    predictions: Mapping[str, np.ndarray] | None = None,
) -> ClassMap:
    """Return the output row of each wanted class, from the best source there is.

    In this order: the uploader's `class_map`; the model's `class_names`, when they hold every wanted folder; the sorted
    folders, when the model names no classes and has as many outputs; the rows that the dense network predicts.

    Args:
        folders: all class folders of the data set, sorted.
        wanted: the classes of the job, a subset of `folders`.
        num_outputs: rows of the dense network's head.
        class_map: folder name -> row.
        class_names: name of each row.
        predictions: predicted rows int64 [n] of training images of each wanted folder.

    Raises:
        DataError: `no_class_map` when no source settles it, `bad_class_map` when the given one cannot be right.
    """
    if class_map is not None:
        return _with_agreement(_given(class_map, wanted, num_outputs), "given", predictions)
    if class_names is not None:
        by_name = {_plain(name): row for row, name in enumerate(class_names)}
        if len(by_name) == len(class_names) and all(_plain(name) in by_name for name in wanted):
            return _with_agreement({name: by_name[_plain(name)] for name in wanted}, "names", predictions)
    elif len(folders) == num_outputs:
        return _with_agreement({name: list(folders).index(name) for name in wanted}, "order", predictions)
    if predictions is not None:
        return _with_agreement(_predicted(predictions, wanted), "predictions", predictions)
    raise DataError(
        "no_class_map", _advice(f"the model has {num_outputs} outputs, the data set {len(folders)} classes")
    )


def _given(class_map: Mapping[str, int], wanted: Sequence[str], num_outputs: int) -> dict[str, int]:
    missing = [name for name in wanted if name not in class_map]
    if missing:
        raise DataError("bad_class_map", f"the class map has no entry for {', '.join(missing[:20])}")
    rows = {name: class_map[name] for name in wanted}
    outside = [f"{name} -> {row}" for name, row in rows.items() if not 0 <= row < num_outputs]
    if outside:
        raise DataError("bad_class_map", f"the model has rows 0 to {num_outputs - 1}, not {', '.join(outside[:20])}")
    if len(set(rows.values())) < len(rows):
        raise DataError("bad_class_map", "the class map gives two classes the same row")
    return rows


def _predicted(predictions: Mapping[str, np.ndarray], wanted: Sequence[str]) -> dict[str, int]:
    rows: dict[str, int] = {}
    for name in wanted:
        seen = predictions.get(name, np.empty(0, dtype=np.int64))
        counts = np.bincount(seen) if len(seen) else np.zeros(1)
        row = int(counts.argmax())
        share = counts[row] / max(1, len(seen))
        if share < MIN_AGREEMENT:
            raise DataError("no_class_map", _advice(f"only {share:.0%} of the images of {name} are predicted alike"))
        rows[name] = row
    twice = [name for name, row in rows.items() if list(rows.values()).count(row) > 1]
    if twice:
        raise DataError("no_class_map", _advice(f"{', '.join(twice[:20])} are predicted as the same class"))
    return rows


def _with_agreement(rows: dict[str, int], source: str, predictions: Mapping[str, np.ndarray] | None) -> ClassMap:
    known = {name: predictions[name] for name in rows if name in predictions} if predictions else {}
    agreement = {name: float((seen == rows[name]).mean()) for name, seen in known.items() if len(seen)}
    return ClassMap(rows=rows, source=source, agreement=agreement)


def _mean(right: np.ndarray) -> float:
    return float(right.mean()) if len(right) else float("nan")


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _advice(reason: str) -> str:
    return f"{reason}: send the data set with a class_map (folder name -> output row of the model)"
