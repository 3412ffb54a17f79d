"""Networks drawn at random: a short program of layers, each reading maps that earlier ones wrote."""

import torch
from torch import Tensor, nn
from torch.nn import functional

Program = list[tuple[str, int]]
"""(what to do, a number that decides everything about it), one entry a layer."""
STEPS = (
    "conv", "grouped", "depthwise", "norm", "activate", "add", "cat", "gate", "split", "shuffle", "slice", "pool", "mlp",
    "scale", "shared", "pad",
)  # fmt: skip
_ACTIVATIONS = (nn.ReLU, nn.SiLU, nn.Sigmoid, nn.GELU, nn.Hardswish)


class RandomNetwork(nn.Module):
    """Runs a program over a growing list of maps [N, C, 8, 8]; the head reads the last two."""

    def __init__(self, program: Program, num_outputs: int = 4) -> None:
        super().__init__()
        self.program = program
        self.layers = nn.ModuleList()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        channels = [6]
        for step, number in program:
            source = channels[number % len(channels)]
            self.layers.append(self._layer(step, number, source, channels))
            channels.append(self._written(step, number, source, channels))
        self.head = nn.Linear(sum(channels[-2:]), num_outputs)

    def _layer(self, step: str, number: int, source: int, channels: list[int]) -> nn.Module:
        width = 2 + number % 7
        if step == "conv":
            return nn.Conv2d(source, width, 3, padding=1, bias=number % 2 == 0)
        if step == "grouped":
            groups = max(g for g in (1, 2, 3) if source % g == 0)
            return nn.Conv2d(source, groups * (1 + number % 3), 3, padding=1, groups=groups)
        if step == "depthwise":
            return nn.Conv2d(source, source * (1 + number % 2), 3, padding=1, groups=source)
        if step == "norm":
            return nn.BatchNorm2d(source)
        if step == "activate":
            return _ACTIVATIONS[number % len(_ACTIVATIONS)]()
        if step == "add":
            return nn.Conv2d(channels[number // 7 % len(channels)], source, 1)
        if step == "gate":
            return nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Conv2d(source, 3, 1), nn.ReLU(), nn.Conv2d(3, source, 1), nn.Sigmoid()
            )
        if step == "mlp":
            return nn.Sequential(nn.Linear(source, width), nn.GELU(), nn.Linear(width, source))
        if step == "shared":
            return nn.Conv2d(source, source, 3, padding=1)
        return nn.Identity()

    @staticmethod
    def _written(step: str, number: int, source: int, channels: list[int]) -> int:
        """Return the channels of what a step writes."""
        if step == "conv":
            return 2 + number % 7
        if step == "grouped":
            return max(g for g in (1, 2, 3) if source % g == 0) * (1 + number % 3)
        if step == "depthwise":
            return source * (1 + number % 2)
        if step == "cat":
            return source + channels[number // 7 % len(channels)]
        if step == "slice":
            return (source + 1) // 2
        return source + 1 if step == "pad" else source

    def forward(self, x: Tensor) -> Tensor:
        maps = [functional.relu(self.stem(x))]
        for (step, number), layer in zip(self.program, self.layers, strict=True):
            source, other = maps[number % len(maps)], maps[number // 7 % len(maps)]
            maps.append(self._step(step, layer, source, other))
        logits: Tensor = self.head(torch.cat([one.mean((2, 3)) for one in maps[-2:]], 1))
        return logits

    @staticmethod
    def _step(step: str, layer: nn.Module, x: Tensor, other: Tensor) -> Tensor:
        if step == "add":
            return x + layer(other)  # type: ignore[no-any-return]
        if step == "cat":
            return torch.cat([x, other], 1)
        if step == "gate":
            return x * layer(x)  # type: ignore[no-any-return]
        if step == "split":
            first, second = torch.split(x, [1, x.shape[1] - 1], 1)
            return torch.cat([second, functional.relu(first)], 1)
        if step == "shuffle" and x.shape[1] % 2 == 0:
            batch, channels, height, width = x.shape
            return (
                x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
            )
        if step == "slice":
            return x[:, ::2]
        if step == "pool":
            return functional.max_pool2d(x, 3, 1, 1)
        if step == "mlp":
            return x + layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]
        if step == "scale":
            return x * 0.5 + 1.0
        if step == "shared":
            return layer(functional.relu(layer(x)))  # type: ignore[no-any-return]
        if step == "pad":
            return functional.pad(x, (0, 0, 0, 0, 1, 0))
        return layer(x)  # type: ignore[no-any-return]
