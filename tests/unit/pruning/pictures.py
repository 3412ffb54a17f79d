"""Small real images, zips of them and networks for the tests of the learning side."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

from pruning.data import Split
from pruning.groups import coupling_groups
from pruning.network import CouplingGroup, Keep, Network
from pruning.trace import trace


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """Return the bytes of an image file."""
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, kind)
    return target.getvalue()


def colourful(seed: int, size: int = 8) -> bytes:
    """Return a PNG of random colours."""
    return encoded(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def zip_of(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write a zip of the given files and return its path."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def folder_of(path: Path, per_class: Mapping[str, int], splits: tuple[str, ...] = ("train",), top: str = "") -> Path:
    """Write a zip with random images: `per_class` of each class in each split."""
    names = [f"{top}{split}/{name}/{i}.png" for split in splits for name, num in per_class.items() for i in range(num)]
    return zip_of(path, {name: colourful(seed) for seed, name in enumerate(names)})


def digits(classes: tuple[int, ...] = (3, 5, 8)) -> tuple[Split, Split]:
    """Return handwritten digits of the given classes, one channel, 8 x 8: (train, held back)."""
    data = load_digits()
    chosen = np.flatnonzero(np.isin(data.target, classes))
    pixels = (data.images[chosen] * 15.9).astype(np.uint8)[:, None]
    labels = np.searchsorted(classes, data.target[chosen])
    whole = np.arange(len(chosen))

    def part(index: np.ndarray) -> Split:
        return Split(source="digits", pixels=pixels, index=index, labels=labels[index], mean=(0.3,), std=(0.35,))

    return part(whole[whole % 4 > 0]), part(whole[whole % 4 == 0])


class ResidualNet(nn.Module):
    """Stem, one residual block with a hidden width of its own, pooled linear head."""

    def __init__(self, channels: int = 8, num_outputs: int = 3) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(1, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv1, self.bn1 = nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False), nn.BatchNorm2d(2 * channels)
        self.conv2, self.bn2 = nn.Conv2d(2 * channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.pool, self.head = nn.AdaptiveAvgPool2d(2), nn.Linear(4 * channels, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        logits: Tensor = self.head(self.pool(torch.relu(x + y)).flatten(1))
        return logits


def trained(train: Split, num_epochs: int = 12) -> Network:
    """Return a residual network that has learned the digits."""
    torch.manual_seed(0)
    model = ResidualNet()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(num_epochs):
        for images, labels in train.take(len(train)).batches(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return trace(model.eval(), (1, 8, 8))


def grouped(network: Network) -> tuple[CouplingGroup, ...]:
    """Return the coupling groups that may be pruned."""
    return tuple(group for group in coupling_groups(network) if not group.frozen)


def first_units(groups: tuple[CouplingGroup, ...], share: float) -> Keep:
    """Keep the first units of every group."""
    return {group.id: np.arange(max(1, round(share * group.units))) for group in groups}
