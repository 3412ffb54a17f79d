"""`python -m bench ablation --data ZIP --arch A --weights W [--classes a,b] [--json]`: what each kind of mask and saliency is worth.

Every convolution that may have a pattern is masked in one shot at equal density: unstructured, element-wise N:M with tiles
(CRISP's hybrid), N:M shared by the block-row ("vector"), block-rows with free lists of channels, square tiles. Accuracy on the
reported split as cut, after least squares on images of the user's classes and, with `--epochs`, after equal fine-tuning.
`other_classes` scores on images of the classes that were not chosen; it wants classes to choose from.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lut.pattern import Pattern
from pruning.architectures import build
from pruning.data import Dataset, inspect_zip, load
from pruning.distill import FinetuneOptions
from pruning.evaluate import accuracy
from pruning.finetune import finetune
from pruning.groups import coupling_groups
from pruning.masked import masked_copy
from pruning.network import Network
from pruning.operators import operators
from pruning.patterns.masks import best_mask, unstructured_mask
from pruning.patterns.tables import maskable
from pruning.reconstruct import NUM_IMAGES, reconstruct
from pruning.saliency import Others, score_all
from pruning.slim import slice_head
from pruning.trace import trace

UNSTRUCTURED = "unstructured"
MASKS = (UNSTRUCTURED, "2:4+16x16@1/2", "2:4v+16x16@1/2", "16x1@1/4", "32x1@1/4", "64x1@1/4", "16x4@1/4", "16x16@1/4")
METHODS = ("cass", "squared_taylor", "bn_taylor", "magnitude", "other_classes", "random")
NUM_SCORED = 1024
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained network on the user's classes, and its images."""

    whole: Network
    dense: Network
    data: Dataset
    others: Dataset | None
    """Images of the classes that were not chosen; labels are rows of the whole head."""
    other_rows: tuple[int, ...]


def main(arguments: Sequence[str]) -> int:
    """Print one row per saliency and mask."""
    parser = argparse.ArgumentParser(prog="python -m bench ablation", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="ImageFolder zip")
    parser.add_argument("--arch", required=True)
    parser.add_argument("--weights", type=Path, required=True, help="safetensors")
    parser.add_argument("--classes", default="", help="folders; left out: all of them")
    parser.add_argument("--rows", default="", help="output row of every folder, in order: 0,217,482")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--masks", nargs="+", default=list(MASKS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--density", type=float, default=0.25, help="of the unstructured masks; patterns say their own")
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(arguments)
    subject = _subject(options)
    dense = accuracy(subject.dense, subject.data.reported).overall
    if not options.json:
        print(f"dense {dense:.3f}, {len(subject.data.reported)} images of {subject.data.reported.source}\n")
        print("| saliency | mask | density | as cut | least squares | fine-tuned |\n|---|---|---|---|---|---|")
    for row in _rows(subject, options):
        figures = (row["accuracy_cut"], row["accuracy_repaired"], row["accuracy"])
        shown = " | ".join("-" if figure is None else f"{figure:.3f}" for figure in figures)
        line = f"| {row['saliency']} | {row['mask']} | {row['density']:.3f} | {shown} |"
        print(json.dumps(row | {"accuracy_dense": dense}) if options.json else line, flush=True)
    return 0


def _subject(options: argparse.Namespace) -> Subject:
    state = _state(options.weights)
    size = options.image_size
    whole = trace(build(options.arch, state=state), (3, size, size))
    folders = inspect_zip(options.data).classes
    chosen = [name for name in folders if not options.classes or name in options.classes.split(",")]
    rest = [name for name in folders if name not in chosen]
    data, others = (_images(options, names) for names in (chosen, rest))
    assert data is not None
    given = [int(row) for row in options.rows.split(",")] if options.rows else list(range(whole.num_outputs))
    rows = dict(zip(folders, given, strict=True))
    return Subject(
        whole=whole,
        dense=slice_head(whole, [rows[name] for name in chosen]),
        data=data,
        others=others,
        other_rows=tuple(rows[name] for name in rest),
    )


def _state(path: Path) -> dict[str, Tensor]:
    return {key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()}


def _images(options: argparse.Namespace, classes: Sequence[str]) -> Dataset | None:
    if not classes:
        return None
    mean, std = IMAGENET
    cache = Path(tempfile.gettempdir()) / "secateur-ablation"
    cache.mkdir(exist_ok=True)
    return load(
        options.data, classes=classes, image_size=options.image_size, mean=mean, std=std, seed=options.seed, cache=cache
    )


def _rows(subject: Subject, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    dense, groups = subject.dense, coupling_groups(subject.dense)
    modules = tuple(maskable(dense, operators(dense, groups)).values())
    methods = [name for name in options.methods if name != "other_classes" or subject.others is not None]
    sample = subject.data.train.take(NUM_SCORED, options.seed)
    scores = score_all(
        dense, groups, sample.batches(64), methods, options.seed, others=_others(subject, options.seed), weights=True
    )
    for method in methods:
        for name in options.masks:
            masks = {module: _mask(scores.weights[method][module], name, options.density) for module in modules}
            yield {"saliency": method, "mask": name, "seed": options.seed, **_judged(subject, masks, options)}


def _others(subject: Subject, seed: int) -> Others | None:
    if subject.others is None:
        return None
    rows = torch.tensor(subject.other_rows)
    sample = subject.others.train.take(NUM_SCORED, seed)
    return Others(network=subject.whole, batches=((images, rows[labels]) for images, labels in sample.batches(64)))


def _mask(saliency: Tensor, name: str, density: float) -> Tensor:
    return unstructured_mask(saliency, density) if name == UNSTRUCTURED else best_mask(saliency, Pattern.parse(name))


def _judged(subject: Subject, masks: Mapping[str, Tensor], options: argparse.Namespace) -> dict[str, Any]:
    """Return density, and accuracy on the reported split as cut, after least squares and after fine-tuning."""
    data, cut = subject.data, masked_copy(subject.dense, masks)
    images, _ = next(data.train.take(NUM_IMAGES, options.seed).batches(NUM_IMAGES))
    groups = coupling_groups(subject.dense)
    repaired = reconstruct(subject.dense, cut, groups, {}, images, masks=masks, seed=options.seed).network
    trained = None
    if options.epochs:
        training = FinetuneOptions(
            max_epochs=options.epochs, max_minutes=1e4, batch_size=64, flip=data.flip, seed=options.seed
        )
        trained = finetune(repaired, subject.dense, data.train, data.selection, training, masks=masks).network
    kept, total = (sum(int(count(mask)) for mask in masks.values()) for count in (torch.sum, torch.numel))
    return {
        "density": kept / total,
        "accuracy_cut": accuracy(cut, data.reported).overall,
        "accuracy_repaired": accuracy(repaired, data.reported).overall,
        "accuracy": accuracy(trained, data.reported).overall if trained else None,
    }
