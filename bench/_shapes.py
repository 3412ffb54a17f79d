"""Synthetic problems in the shape of real networks, for instances larger than the published ones.

Values follow a concave curve in both widths with a random weight per layer; latency is that of rounded-up channel
counts at a fixed rate plus a fixed cost, with two per cent of noise, so that it is a staircase and not monotone.
"""

import numpy as np

from pruning.problem import Budget, Layer, Problem, Stage, WidthChoice

BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}
DENSITIES = (1.0, 0.5, 0.375, 0.25, 0.1875, 0.125)
MACS_PER_NS = 117.0
FIXED_NS = 2000.0
BYTES_PER_WEIGHT = 4
OTHER_BUDGETS = ("latency_ns:other", "weight_bytes")
"""A second device, slow at small spatial sizes, and the weights; beside the first device's latency."""


class _Shape:
    def __init__(self, num_widths: int, num_patterns: int, seed: int, *, several: bool = False) -> None:
        self.several = several
        self.num_widths = num_widths
        self.densities = np.array(DENSITIES[:num_patterns])
        self.random = np.random.default_rng(seed)
        self.widths: dict[str, tuple[int, ...]] = {}
        self.layers: list[Layer] = []

    def group(self, name: str, channels: int) -> str:
        steps = {max(1, round(channels * (k + 1) / self.num_widths)) for k in range(self.num_widths)}
        self.widths[name] = tuple(sorted(steps))
        return name

    def conv(self, name: str, source: str | None, output: str | None, kernel: int, size: int) -> str:
        widths_in = np.array(self.widths[source] if source else (3,))
        widths_out = np.array(self.widths[output] if output else (1000,))
        bends = self.random.uniform(0.1, 0.6, 3)
        value = self.random.gamma(2.0) * np.outer(
            (widths_in / widths_in[-1]) ** bends[0], (widths_out / widths_out[-1]) ** bends[1]
        )
        macs = np.outer(-(-widths_in // 8) * 8, -(-widths_out // 16) * 16) * kernel**2 * size**2
        # A pattern keeps more saliency than density and saves less time than it removes work.
        latency = macs / MACS_PER_NS * (0.15 + 0.85 * self.densities)[:, None, None] + FIXED_NS
        latency = latency * self.random.normal(1.0, 0.02, latency.shape)
        costs: tuple[np.ndarray, ...] = ()
        if self.several:
            weights = np.outer(widths_in, widths_out) * kernel**2 * self.densities[:, None, None]
            other = 3 * latency * (1 + 7 / size) * self.random.normal(1.0, 0.02, latency.shape)
            costs = other, BYTES_PER_WEIGHT * weights
        self.layers.append(
            Layer(
                name=name,
                inputs=(source,) if source else (),
                output=output,
                value=value * (self.densities ** bends[2])[:, None, None],
                latency_ns=np.ceil(latency).astype(np.int64),
                patterns=tuple(f"density {density}" for density in self.densities),
                other_costs={b: np.ceil(cost).astype(np.int64) for b, cost in zip(OTHER_BUDGETS, costs, strict=False)},
            )
        )
        return name


def resnet_problem(
    network: str, num_widths: int, num_patterns: int, budget: float, seed: int = 0, *, several: bool = False
) -> Problem:
    """Return a bottleneck ResNet's problem at `budget` times its dense latency; its identity blocks are removable.

    With `several`, a second device's latency and the bytes of weights have budgets of that share too.
    """
    shape = _Shape(num_widths, num_patterns, seed, several=several)
    stages = []
    previous, size = shape.group("stem", 64), 56
    shape.conv("conv1", None, previous, 7, 112)
    for s, (num_blocks, channels) in enumerate(zip(BLOCKS[network], (64, 128, 256, 512), strict=True), start=1):
        output = shape.group(f"layer{s}", 4 * channels)
        for b in range(num_blocks):
            block = f"layer{s}.{b}"
            inner = (shape.group(f"{block}.conv1", channels), shape.group(f"{block}.conv2", channels))
            names = [shape.conv(f"{block}.conv1", previous, inner[0], 1, size)]
            size = size // 2 if b == 0 and s > 1 else size
            names.append(shape.conv(f"{block}.conv2", *inner, 3, size))
            names.append(shape.conv(f"{block}.conv3", inner[1], output, 1, size))
            if b == 0:
                shape.conv(f"{block}.downsample", previous, output, 1, size)
            else:
                stages.append(Stage(id=block, layers=tuple(names), groups=inner))
            previous = output
    shape.conv("fc", previous, None, 1, 1)
    dense_ns = sum(int(layer.latency_ns[0, -1, -1]) for layer in shape.layers)
    dense = {b: sum(int(layer.other_costs[b][0, -1, -1]) for layer in shape.layers) for b in OTHER_BUDGETS if several}
    return Problem(
        groups=tuple(WidthChoice(id=name, widths=widths) for name, widths in shape.widths.items()),
        layers=tuple(shape.layers),
        group_value={},
        budget_ns=int(budget * dense_ns),
        stages=tuple(stages),
        other_budgets=tuple(Budget(id=b, limit=int(budget * cost)) for b, cost in dense.items()),
    )
