"""Small networks and helpers shared by tests."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pruning.network import CouplingGroup, Network
from pruning.trace import trace

SHAPE = (3, 16, 16)
"""Input of every network built here."""


def lively(model: nn.Module, input_shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> nn.Module:
    """Return `model` in eval mode with parameters and BatchNorm statistics under which every channel carries signal."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (2 / fan_in) ** 0.5)
            else:
                parameter.copy_(torch.empty(parameter.shape).uniform_(0.3, 0.7, generator=generator))
        norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.momentum = 1.0
            norm.train()
        if norms:
            model.eval()
            for norm in norms:
                norm.train()
            model(images(input_shape, batch=4, seed=seed))
        for norm in norms:
            norm.momentum = 0.1
    return model.eval()


def images(input_shape: tuple[int, int, int] = SHAPE, batch: int = 2, seed: int = 0) -> Tensor:
    """Return standard normal images, float32 [batch, channels, height, width]."""
    return torch.randn(batch, *input_shape, generator=torch.Generator().manual_seed(seed))


def random_keep(groups: tuple[CouplingGroup, ...], seed: int = 0, share: float = 0.9) -> dict[str, np.ndarray]:
    """Return kept units of a random `share` of the prunable groups: a random number of random units each."""
    rng = np.random.default_rng(seed)
    return {
        group.id: np.sort(rng.choice(group.units, rng.integers(1, group.units + 1), replace=False))
        for group in groups
        if not group.frozen and rng.random() < share
    }


def outputs(network: Network, batch: int = 2, seed: int = 0) -> Tensor:
    """Return the network's logits on `images`, float32 [batch, outputs]."""
    with torch.no_grad():
        result: Tensor = network.module(images(network.input_shape, batch, seed))
    return result


def conv_bn(c_in: int, c_out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return convolution ("same" padding, no bias) and BatchNorm."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out))


class Chain(nn.Module):
    """Convolution, BatchNorm, ReLU twice, then flatten and two linear layers."""

    def __init__(self, widths: tuple[int, int, int] = (6, 8, 10), num_outputs: int = 5) -> None:
        super().__init__()
        self.one, self.two = conv_bn(3, widths[0]), conv_bn(widths[0], widths[1], stride=2)
        self.pool = nn.MaxPool2d(2)
        self.hidden = nn.Linear(widths[1] * 16, widths[2])
        self.head = nn.Linear(widths[2], num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.two(functional.relu(self.one(x)))))
        logits: Tensor = self.head(functional.relu(self.hidden(x.view(x.size(0), -1))))
        return logits


class Residual(nn.Module):
    """A stem and two residual blocks, the second behind a projection."""

    def __init__(self, width: int = 6, num_outputs: int = 5) -> None:
        super().__init__()
        self.stem = conv_bn(3, width)
        self.a1, self.a2 = conv_bn(width, width + 1), conv_bn(width + 1, width)
        self.b1, self.b2 = conv_bn(width, width + 3, stride=2), conv_bn(width + 3, 2 * width)
        self.projection = conv_bn(width, 2 * width, 1, 2)
        self.head = nn.Linear(2 * width, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = functional.relu(x + self.a2(self.a1(x).relu_()))
        x = functional.relu(self.projection(x) + self.b2(functional.relu(self.b1(x))))
        logits: Tensor = self.head(x.mean([2, 3]))
        return logits


class Inverted(nn.Module):
    """Expand, depthwise, squeeze-and-excitation, project with a skip: the MobileNet V3 and EfficientNet block."""

    def __init__(self, width: int = 6, hidden: int = 10, num_outputs: int = 5) -> None:
        super().__init__()
        self.stem = conv_bn(3, width, stride=2)
        self.expand, self.depthwise = conv_bn(width, hidden, 1), conv_bn(hidden, hidden, 3, groups=hidden)
        self.squeeze, self.excite = nn.Conv2d(hidden, 4, 1), nn.Conv2d(4, hidden, 1)
        self.project = conv_bn(hidden, width, 1)
        self.head = nn.Linear(width, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.hardswish(self.stem(x))
        y = functional.silu(self.depthwise(functional.hardswish(self.expand(x))))
        scale = self.excite(functional.relu(self.squeeze(functional.adaptive_avg_pool2d(y, 1))))
        x = x + self.project(y * functional.hardsigmoid(scale))
        logits: Tensor = self.head(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))
        return logits


class Shuffle(nn.Module):
    """Two ShuffleNet units: split, transform one half, concatenate, shuffle."""

    def __init__(self, width: int = 8, num_outputs: int = 5) -> None:
        super().__init__()
        self.stem = conv_bn(3, width)
        self.units = nn.ModuleList(nn.Sequential(conv_bn(width // 2, width // 2), nn.ReLU()) for _ in range(2))
        self.head = nn.Linear(width, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        for unit in self.units:
            left, right = x.chunk(2, dim=1)
            x = torch.cat((left, unit(right)), dim=1)
            batch, channels, height, width = x.size()
            x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
            x = x.view(batch, channels, height, width)
        logits: Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


class Dense(nn.Module):
    """Two DenseNet layers: BatchNorm and ReLU on everything so far, concatenated."""

    def __init__(self, width: int = 6, growth: int = 4, num_outputs: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, growth, 3, padding=1)
        self.norm2, self.conv2 = nn.BatchNorm2d(width + growth), nn.Conv2d(width + growth, growth, 3, padding=1)
        self.norm3 = nn.BatchNorm2d(width + 2 * growth)
        self.head = nn.Linear(width + 2 * growth, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.conv1(functional.relu(self.norm1(x)))], 1)
        x = torch.cat([x, self.conv2(functional.relu(self.norm2(x)))], 1)
        logits: Tensor = self.head(functional.relu(self.norm3(x)).mean((2, 3)))
        return logits


class Grouped(nn.Module):
    """A grouped convolution between two dense ones, and a depthwise one with two outputs for each input."""

    def __init__(self, num_outputs: int = 5) -> None:
        super().__init__()
        self.one, self.two = conv_bn(3, 8), conv_bn(8, 12, groups=2)
        self.three = nn.Conv2d(12, 24, 3, groups=12)
        self.head = nn.Conv2d(24, num_outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.two(functional.relu(self.one(x))))
        return torch.flatten(
            functional.adaptive_avg_pool2d(functional.relu(self.head(functional.silu(self.three(x)))), 1), 1
        )


class Padded(nn.Module):
    """A residual stage change by stride and zero channels (option A), twice."""

    def __init__(self, width: int = 4, num_outputs: int = 5) -> None:
        super().__init__()
        self.stem, self.one, self.two = (
            conv_bn(3, width),
            conv_bn(width, width + 4, 3, 2),
            conv_bn(width + 4, width + 6, 3, 2),
        )
        self.head = nn.Linear(width + 6, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        x = functional.relu(self.one(x) + functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))
        x = functional.relu(self.two(x) + functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1)))
        logits: Tensor = self.head(functional.avg_pool2d(x, x.size(3)).flatten(1))
        return logits


class Gated(nn.Module):
    """Channels that are not zero when their weights are: behind sigmoid, softplus, an added and a padded constant."""

    def __init__(self, num_outputs: int = 5) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 7, 3, padding=1)
        self.prelu = nn.PReLU(7)
        self.norm = nn.BatchNorm2d(7, affine=False)
        self.head = nn.Linear(7, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.one(x)) + 1.5
        x = functional.pad(x, (1, 1, 1, 1), value=2.0)
        x = nn.functional.softplus(self.norm(self.prelu(self.two(x))))
        logits: Tensor = self.head(x.amax((2, 3)))
        return logits


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    kind.__name__: kind for kind in (Chain, Residual, Inverted, Shuffle, Dense, Grouped, Padded, Gated)
}


def network(name: str, seed: int = 0) -> Network:
    """Return the traced small network of that name with lively weights."""
    return trace(lively(NETWORKS[name](), seed=seed), SHAPE)
