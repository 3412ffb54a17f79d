"""A small job whose steps run here, one after another, in one folder: real images, a trained network, a made-up latency table."""

import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lut.pattern import Pattern
from lut.request import num_macs
from lut.table import Entry, LatencyTable
from pruning.export import to_onnx
from pruning.groups import coupling_groups
from pruning.operators import operators
from pruning.patterns.tables import maskable
from pruning.tables import grid_requests, width_choices
from pruning.trace import trace
from secateur.schemas import PruneJobCreate
from workers.context import StepContext
from workers.device import describe
from workers.steps.loading import dense_network

SIZE = 16
CLASSES = ("blue", "green", "grey", "red", "yellow")
COLOURS = ((40, 40, 200), (40, 180, 40), (120, 120, 120), (200, 40, 40), (190, 190, 40))
LIMITS = {"max_zip_entries": 10_000, "max_zip_bytes": 2**30, "max_zip_ratio": 1000, "max_image_pixels": 10**6}


class Net(nn.Module):
    """Stem, a residual block, a wide layer, and a head of five classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.conv1, self.bn1 = nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64)
        self.conv2, self.bn2 = nn.Conv2d(64, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.wide, self.bn3 = nn.Conv2d(32, 64, 3, padding=1, stride=2), nn.BatchNorm2d(64)
        self.head = nn.Linear(64, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        x = torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        logits: Tensor = self.head(torch.relu(self.bn3(self.wide(x))).mean((2, 3)))
        return logits


def pictures(num: int, seed: int) -> dict[str, list[np.ndarray]]:
    """Return `num` noisy pictures of each class, uint8 [S, S, 3]."""
    rng = np.random.default_rng(seed)
    return {
        name: [
            np.clip(np.array(colour) + rng.normal(0, 400, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8) for _ in range(num)
        ]
        for name, colour in zip(CLASSES, COLOURS, strict=True)
    }


def write_inputs(folder: Path) -> None:
    """Write `model`, an ONNX file of a network that was trained a little, and `dataset.zip`."""
    found = pictures(40, 0)
    with zipfile.ZipFile(folder / "dataset.zip", "w") as archive:
        for name, many in found.items():
            for i, one in enumerate(many):
                Image.fromarray(one).save(file := BytesIO(), "PNG")
                archive.writestr(f"train/{name}/{i}.png", file.getvalue())
    images = torch.from_numpy(np.stack([one for many in found.values() for one in many])).permute(0, 3, 1, 2)
    labels = torch.arange(len(CLASSES)).repeat_interleave(40)
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(25):
        pick = torch.from_numpy(np.random.default_rng(step).permutation(len(labels))[:64])
        optimizer.zero_grad()
        nn.functional.cross_entropy(model((images[pick] / 255 - 0.5) / 0.25), labels[pick]).backward()
        optimizer.step()
    to_onnx(trace(model.eval(), (3, SIZE, SIZE)), folder / "model.onnx")
    (folder / "model.onnx").rename(folder / "model")


@dataclass(kw_only=True)
class ToyJob:
    """A job of three of the five classes."""

    folder: Path
    spec: dict[str, Any]
    events: list[dict[str, Any]] = field(default_factory=list)

    def context(self) -> StepContext:
        """Return what a step body is given."""
        return StepContext(
            workdir=self.folder, cache=self.folder / "cache", spec=self.spec, seed=0, attempt=1,
            emit=lambda event: self.events.append(dict(event)),
        )  # fmt: skip

    def run(self, *steps: str) -> dict[str, Any]:
        """Run steps and return what the last one did."""
        for name in steps:
            result = import_module(f"workers.steps.{name}").run(self.context())
            self.spec["results"][name] = result
        return dict(self.spec["results"][steps[-1]])

    def price(self) -> None:
        """Write the device's table: an operator takes its multiply-accumulates at 20 GMAC/s, a pattern its share of them, and 1 us."""
        dense = dense_network(self.context())
        groups, job = coupling_groups(dense), self.spec["job"]
        costs = operators(dense, groups)
        masks = [Pattern.parse(name) for name in job["pattern_choices"]] if job["patterns"] != "none" else []
        empty = LatencyTable(profile=describe("local"), entries={}, step=16)
        offered = dict.fromkeys(maskable(dense, costs), masks)
        entries = {}
        for request in grid_requests(costs, width_choices(groups, empty), patterns=offered):
            share = float(Pattern.parse(request.signature.pattern or "dense").share)
            cost = {pair: 1 + share * num_macs(request.signature, *pair) / 20_000 for pair in request.pairs()}
            entries[request.signature] = {pair: Entry(p50_us=us, p90_us=us, num_samples=9) for pair, us in cost.items()}
        replace(empty, entries=entries).save(self.folder / "table.json")
        self.spec["results"]["profile"] = {"seconds": 0.0}


def toy_job(folder: Path, classes: Sequence[str] = ("blue", "green", "red"), **options: Any) -> ToyJob:
    """Return a job whose inputs lie in `folder`."""
    training = {"mode": "full", "max_epochs": 1, "max_minutes": 1, "batch_size": 32}
    fields: dict[str, Any] = {"budget_ratio": 0.8, "baselines": False, "finetune": training, **options}
    job = PruneJobCreate(model_id="m", dataset_id="d", classes=list(classes), **fields)
    dataset = {
        "classes": list(CLASSES), "class_map": None, "image_size": SIZE, "mean": [0.5] * 3, "std": [0.25] * 3, "sha256": "0",
    }  # fmt: skip
    spec = {
        "job": job.model_dump(mode="json"),
        "model": {"name": "toy", "arch": "onnx", "class_names": None, "sha256": "0"},
        "dataset": dataset,
        "profile": asdict(describe("local")),
        "also": [],
        "limits": LIMITS,
        "results": {},
    }
    return ToyJob(folder=folder, spec=spec)
