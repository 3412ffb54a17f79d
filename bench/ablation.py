"""`python -m bench ablation --data ZIP --arch A --weights W [--classes a,b] [--json]`: what each kind of mask and saliency is worth.

Every convolution that may have a pattern is masked in one shot at equal density: unstructured, element-wise N:M with tiles
(CRISP's hybrid), N:M shared by the block-row ("vector"), block-rows with free lists of channels, square tiles. Where a layer is too
narrow for a pattern's tiles more stays; the density column says what stayed in all. Accuracy on the
reported split as cut, after least squares on images of the user's classes and, with `--epochs`, after equal fine-tuning.

The first of `--methods` meets every one of `--masks`, the others those of `--control-masks`. The splits are the same for all seeds; a
seed draws the images that are scored and repaired on, the sampled positions and the training. All rows of a seed share these, so
differences between rows are less noisy than the rows themselves. Channels stay where they are (a job reorders them first).
`other_classes` scores on images of the classes that were not chosen: without such classes its rows are null, with a reason.
"""

import argparse
import copy
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lut.pattern import Pattern
from pruning.activations import Targets
from pruning.architectures import build
from pruning.data import Dataset, Split, inspect_zip, load
from pruning.distill import FinetuneOptions
from pruning.evaluate import accuracy
from pruning.finetune import finetune
from pruning.groups import coupling_groups
from pruning.masked import masked_copy
from pruning.network import CouplingGroup, Network
from pruning.operators import operators
from pruning.patterns.masks import best_mask, unstructured_mask
from pruning.patterns.tables import maskable
from pruning.reconstruct import MEMORY_BYTES, NUM_IMAGES, reconstruct
from pruning.repairs import repairs
from pruning.saliency import OTHER_CLASSES, Others, Scores, score_all
from pruning.slim import slice_head
from pruning.trace import trace

UNSTRUCTURED = "unstructured"
MASKS = (UNSTRUCTURED, "2:4+16x16@1/2", "2:4v+16x16@1/2", "16x1@1/4", "32x1@1/4", "64x1@1/4", "16x4@1/4", "16x16@1/4")
CONTROL_MASKS = (UNSTRUCTURED, "2:4+16x16@1/2", "16x1@1/4")
METHODS = ("cass", "squared_taylor", "bn_taylor", "magnitude", OTHER_CLASSES, "random")
NO_OTHERS = "every class of the data set is chosen: there are no others to score on"
FIGURES = ("accuracy_cut", "accuracy_repaired", "accuracy")
NORMALISATION = {"imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), "half": ((0.5,) * 3, (0.5,) * 3)}
SPLIT_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained network on the user's classes, and its images."""

    whole: Network
    dense: Network
    groups: tuple[CouplingGroup, ...]
    """Of `dense`."""
    modules: tuple[str, ...]
    """Layers that are masked."""
    data: Dataset
    others: Dataset | None
    """Images of the classes that were not chosen; labels are rows of the whole head."""
    other_rows: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What the rows of one seed share."""

    seed: int
    scores: Scores
    images: Tensor
    """To repair on, float32 [n, C, H, W]."""
    targets: Targets
    """The dense network's rows on them."""


def main(arguments: Sequence[str]) -> int:
    """Print one row per saliency and mask, over the seeds; with `--json` one per saliency, mask and seed."""
    parser = _parser()
    options = parser.parse_args(arguments)
    with TemporaryDirectory(prefix="secateur-ablation-") as folder:
        try:
            subject = _subject(options, Path(folder))
        except (ValueError, OSError) as wrong:
            parser.error(str(wrong))
        dense, rows = _accuracy(subject.dense, subject.data.reported), []
        for seed in options.seeds:
            for row in _rows(subject, options, seed):
                rows.append(row | {"accuracy_dense": dense, "num_images": len(subject.data.reported)})
                # A table needs all seeds; until then there is a sign of life.
                print(json.dumps(rows[-1]), flush=True, file=sys.stdout if options.json else sys.stderr)
    if not options.json:
        print(*_table(rows, subject.data.reported), sep="\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench ablation", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="ImageFolder zip")
    parser.add_argument("--arch", required=True, help="torchvision/<name>, timm/<name>, cifar/resnet<depth>")
    parser.add_argument("--weights", type=Path, required=True, help="safetensors")
    parser.add_argument("--classes", default="", help="folders; left out: all of them")
    parser.add_argument("--rows", default="", help="output row of every folder, in order: 0,217,482; left out: 0,1,2..")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--normalize", choices=list(NORMALISATION), default="imagenet")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--masks", nargs="+", type=_mask_name, default=list(MASKS), help="of the first method")
    parser.add_argument(
        "--control-masks", nargs="+", type=_mask_name, default=list(CONTROL_MASKS), help="of the others"
    )
    parser.add_argument("--density", type=_share, default=0.25, help="of unstructured masks; patterns say their own")
    parser.add_argument("--scored", type=int, default=512, help="images that are scored")
    parser.add_argument("--repaired", type=int, default=NUM_IMAGES, help="images of the least squares")
    parser.add_argument("--epochs", type=int, default=0, help="of fine-tuning")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser


def _mask_name(text: str) -> str:
    try:
        return text if text == UNSTRUCTURED else Pattern.parse(text).id
    except ValueError as wrong:
        raise argparse.ArgumentTypeError(str(wrong)) from None


def _share(text: str) -> float:
    if not 0 < float(text) <= 1:
        raise argparse.ArgumentTypeError(f"a density is in (0, 1]: {text}")
    return float(text)


def _subject(options: argparse.Namespace, cache: Path) -> Subject:
    """Return what the options describe. Raises ValueError for classes, rows or weights that do not fit each other."""
    folders = inspect_zip(options.data).classes
    wanted = options.classes.split(",") if options.classes else folders
    if unknown := set(wanted) - set(folders):
        raise ValueError(f"no such class: {', '.join(sorted(unknown))}; there are {', '.join(folders)}")
    size = options.image_size
    whole = trace(build(options.arch, state=_state(options.weights)), (3, size, size))
    given = [int(row) for row in options.rows.split(",")] if options.rows else list(range(whole.num_outputs))
    if len(given) != len(folders) or len(set(given)) < len(given) or not set(given) <= set(range(whole.num_outputs)):
        raise ValueError(
            f"--rows names {len(folders)} different rows of the network's {whole.num_outputs}, one a folder"
        )
    rows = dict(zip(folders, given, strict=True))
    chosen, rest = ([name for name in folders if (name in wanted) == side] for side in (True, False))
    dense = slice_head(whole, [rows[name] for name in chosen])
    groups = coupling_groups(dense)
    return Subject(
        whole=whole,
        dense=dense,
        groups=groups,
        modules=tuple(maskable(dense, operators(dense, groups)).values()),
        data=_images(options, chosen, cache),
        others=_images(options, rest, cache) if rest else None,
        other_rows=tuple(rows[name] for name in rest),
    )


def _state(path: Path) -> dict[str, Tensor]:
    return {key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()}


def _images(options: argparse.Namespace, classes: Sequence[str], cache: Path) -> Dataset:
    mean, std = NORMALISATION[options.normalize]
    return load(
        options.data, classes=classes, image_size=options.image_size, mean=mean, std=std, seed=SPLIT_SEED, cache=cache
    )


def _rows(subject: Subject, options: argparse.Namespace, seed: int) -> Iterator[dict[str, Any]]:
    draw = _draw(subject, options, seed)
    for method in options.methods:
        for name in options.masks if method == options.methods[0] else options.control_masks:
            row = {"saliency": method, "mask": name, "seed": seed}
            if method not in draw.scores.weights:
                yield row | dict.fromkeys(("density", *FIGURES)) | {"reason": NO_OTHERS}
                continue
            weights = draw.scores.weights[method]
            masks = {module: _mask(weights[module], name, options.density) for module in subject.modules}
            yield row | _judged(subject, masks, draw, options.epochs)


def _draw(subject: Subject, options: argparse.Namespace, seed: int) -> Draw:
    """Return one pass of scores and one pass of the dense network for all rows of a seed."""
    train, others = subject.data.train, subject.others
    elsewhere = None
    if others is not None:
        rows, sample = torch.tensor(subject.other_rows), others.train.take(options.scored, seed)
        elsewhere = Others(
            network=subject.whole, batches=((images, rows[labels]) for images, labels in sample.batches(64))
        )
    methods = [name for name in options.methods if name != OTHER_CLASSES or elsewhere]
    batches = train.take(options.scored, seed).batches(64)
    scores = score_all(subject.dense, subject.groups, batches, methods, seed, others=elsewhere, weights=True)
    images, _ = next(train.take(options.repaired, seed).batches(options.repaired))
    tasks, _ = repairs(subject.dense, subject.dense, subject.groups, {}, subject.modules)
    wanted = [task.wanted for task in tasks.values()]
    targets = Targets(subject.dense.module, wanted, images, seed, MEMORY_BYTES, hold=True)
    return Draw(seed=seed, scores=scores, images=images, targets=targets)


def _mask(saliency: Tensor, name: str, density: float) -> Tensor:
    return unstructured_mask(saliency, density) if name == UNSTRUCTURED else best_mask(saliency, Pattern.parse(name))


def _judged(subject: Subject, masks: Mapping[str, Tensor], draw: Draw, epochs: int) -> dict[str, Any]:
    """Return density, and accuracy on the reported split as cut, after least squares and after fine-tuning."""
    data, cut = subject.data, masked_copy(subject.dense, masks)
    repaired = reconstruct(
        subject.dense, cut, subject.groups, {}, draw.images, masks=masks, seed=draw.seed, targets=draw.targets
    ).network
    trained = None
    if epochs:
        # The precision is fixed: `auto` takes what is faster at the moment, and rows would differ by it.
        training = FinetuneOptions(
            max_epochs=epochs, max_minutes=1e4, batch_size=64, flip=data.flip, precision="fp32", seed=draw.seed
        )
        trained = finetune(repaired, subject.dense, data.train, data.selection, training, masks=masks).network
    kept, total = (sum(int(count(mask)) for mask in masks.values()) for count in (torch.sum, torch.numel))
    found = (cut, repaired, trained)
    figures = [None if network is None else _accuracy(network, data.reported) for network in found]
    return {"density": kept / total, **dict(zip(FIGURES, figures, strict=True))}


def _accuracy(network: Network, split: Split) -> float:
    """Return the share predicted right; channels last, as judging takes most of a row's time and is faster so."""
    module = copy.deepcopy(network.module).to(memory_format=torch.channels_last)
    return accuracy(replace(network, module=module), split).overall


def _table(rows: Sequence[Mapping[str, Any]], reported: Split) -> Iterator[str]:
    """Yield a Markdown table: means over the seeds and, of several, their standard errors."""
    count = len({row["seed"] for row in rows})
    yield (
        f"dense {rows[0]['accuracy_dense']:.3f}; {len(reported)} images of {reported.source}, the same for every row (one "
        f"accuracy of so many is uncertain by up to {0.5 / len(reported) ** 0.5:.3f}); mean ± standard error over {count} seeds\n"
    )
    yield "| saliency | mask | density | as cut | least squares | fine-tuned |\n|---|---|---|---|---|---|"

    order = list(dict.fromkeys((row["saliency"], row["mask"]) for row in rows))
    together = sorted(rows, key=lambda row: order.index((row["saliency"], row["mask"])))
    for (method, mask), own in groupby(together, key=lambda row: (row["saliency"], row["mask"])):
        same = list(own)
        density = "-" if same[0]["density"] is None else f"{same[0]['density']:.3f}"
        shown = " | ".join(_over_seeds([row[figure] for row in same]) for figure in FIGURES)
        yield f"| {method} | {mask} | {density} | {shown} |"
    yield from dict.fromkeys(f"\n{row['saliency']}: {row['reason']}" for row in rows if "reason" in row)


def _over_seeds(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    error = f" ± {stdev(known) / len(known) ** 0.5:.3f}" if len(known) > 1 else ""
    return f"{mean(known):.3f}{error}"
