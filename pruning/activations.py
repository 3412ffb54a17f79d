"""Activations of many images at bounded memory: graphs run one node at a time, outputs kept at sampled positions only.

Letters: n = images, b = images of a chunk, p = sampled positions of an image, r = b * p rows, C = channels,
d = inputs of a layer (channels x kernel), o = channels kept of an output.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

NUM_POSITIONS = 64


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Outputs that shall be kept: of one node, at the sampled positions, of some channels."""

    layer: str
    """What the rows are asked for by."""
    node: str
    kept: Tensor
    """int64 [o]"""
    channels_last: bool
    """True for the outputs of linear layers, [b, ..., C]; false for [b, C, H, W]."""


def in_chunks(images: Tensor) -> list[Tensor]:
    """Return the images in parts small enough for a layer's scratch memory, in the layout in which convolutions are fast."""
    size = max(8, min(256, 2_000_000 // images[0, 0].numel()))
    parts = (images[start : start + size] for start in range(0, len(images), size))
    return [part.contiguous(memory_format=torch.channels_last) for part in parts]


class NodeRunner:
    """Runs a graph one node at a time over all images, and holds only the tensors that are still needed."""

    def __init__(self, module: fx.GraphModule, images: Tensor) -> None:
        self.module = module
        self.chunks = in_chunks(images)
        self.interpreters = [fx.Interpreter(module) for _ in self.chunks]
        self.peak_bytes = 0

    def nodes(self) -> Iterator[fx.Node]:
        """Yield each node before it runs: its inputs are there, its module may still be changed."""
        for node in self.module.graph.nodes:
            yield node
            for interpreter, chunk in zip(self.interpreters, self.chunks, strict=True):
                interpreter.env[node] = chunk if node.op == "placeholder" else interpreter.run_node(node)
            held = [value for i in self.interpreters for value in i.env.values() if isinstance(value, Tensor)]
            self.peak_bytes = max(self.peak_bytes, sum(value.nbytes for value in held))
            for interpreter in self.interpreters:
                for used in interpreter.user_to_last_uses.get(node, []):
                    del interpreter.env[used]

    def values(self, node: fx.Node) -> list[Tensor]:
        """Return the output of a node that has run, for each chunk."""
        return [interpreter.env[node] for interpreter in self.interpreters]


class Targets:
    """Rows of the dense network's outputs; the network runs again for each part of them that fits in memory."""

    def __init__(
        self,
        module: fx.GraphModule,
        wanted: Sequence[Wanted],
        images: Tensor,
        seed: int,
        memory_bytes: int,
        *,
        hold: bool = False,
    ) -> None:
        """With `hold`, rows stay for the next network that is repaired on these images: of all layers, whatever `memory_bytes` is."""
        self.module = module
        self.hold = hold
        self.images = images
        self.seed = seed
        self.max_values = memory_bytes // 4
        self.waiting = list(wanted)
        self.rows: dict[str, list[Tensor]] = {}
        self.positions: dict[str, list[Tensor | None]] = {}
        self.drawn: dict[torch.Size, Tensor] = {}

    def take(self, layer: str) -> tuple[list[Tensor], list[Tensor | None]]:
        """Return, for each chunk, target rows float32 [r, o] and the positions int64 [b, p] they were read at.

        Layers must be taken in the order of `wanted`; rows are let go once taken, unless they are held.
        """
        while layer not in self.rows:
            self._compute_next()
        if self.hold:
            return self.rows[layer], self.positions[layer]
        return self.rows.pop(layer), self.positions.pop(layer)

    def keep(self, wanted: Wanted, value: Tensor, begin: int) -> None:
        """Keep the wanted rows of one chunk's output, whose first image is image `begin`."""
        size = value.shape[1:-1] if wanted.channels_last else value.shape[2:]
        positions = self._draw(size)[begin : begin + len(value)] if size else None
        self.rows[wanted.layer].append(output_rows(value, positions, wanted.channels_last)[:, wanted.kept])
        self.positions[wanted.layer].append(positions)

    def _draw(self, size: torch.Size) -> Tensor:
        """Return flat positions int64 [n, p] on the grid `size`, the same for every layer of that size."""
        if size not in self.drawn:
            draw = np.random.default_rng([self.seed, *size])
            total = size.numel()
            picks = [draw.permutation(total)[:NUM_POSITIONS] for _ in range(len(self.images))]
            self.drawn[size] = torch.from_numpy(np.stack(picks))
        return self.drawn[size]

    def _compute_next(self) -> None:
        num_values, count = 0, 0
        while count < len(self.waiting) and (not count or num_values <= self.max_values):
            num_values += len(self.waiting[count].kept) * NUM_POSITIONS * len(self.images)
            count += 1
        part, self.waiting = self.waiting[:count], self.waiting[count:]
        by_node: dict[str, list[Wanted]] = {}
        for wanted in part:
            by_node.setdefault(wanted.node, []).append(wanted)
            self.rows[wanted.layer], self.positions[wanted.layer] = [], []
        begin = 0
        for chunk in in_chunks(self.images):
            _Capture(self.module, by_node, self, begin).run(chunk)
            begin += len(chunk)


class _Capture(fx.Interpreter):
    """Runs the dense network on one chunk and hands over the outputs that are wanted."""

    def __init__(
        self, module: fx.GraphModule, wanted: Mapping[str, Sequence[Wanted]], targets: Targets, begin: int
    ) -> None:
        super().__init__(module)
        self.wanted = wanted
        self.targets = targets
        self.begin = begin

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        for wanted in self.wanted.get(n.name, ()):
            self.targets.keep(wanted, value, self.begin)
        return value


def output_rows(value: Tensor, positions: Tensor | None, channels_last: bool) -> Tensor:
    """Return [r, C] from [b, C, H, W] or [b, ..., C] at `positions` [b, p] of the grid; [b, C] as it is without any."""
    if positions is None:
        return value
    flat = value.flatten(1, -2) if channels_last else value.flatten(2).transpose(1, 2)
    return flat.gather(1, positions[:, :, None].expand(-1, -1, flat.shape[2])).flatten(0, 1)


def input_rows(layer: nn.Conv2d | nn.Linear, x: Tensor, positions: Tensor | None) -> Tensor:
    """Return [r, d]: what the layer reads to compute its output at `positions`, in the order of its weight."""
    if isinstance(layer, nn.Linear) or positions is None:
        return output_rows(x, positions, True)
    (kernel_h, kernel_w), (stride_h, stride_w), (step_h, step_w) = layer.kernel_size, layer.stride, layer.dilation
    pad_h, pad_w = (int(pad) for pad in layer.padding)
    x = functional.pad(x, (pad_w, pad_w, pad_h, pad_h))
    out_w = (x.shape[3] - step_w * (kernel_w - 1) - 1) // stride_w + 1
    rows = (positions // out_w * stride_h)[:, :, None] + torch.arange(kernel_h) * step_h
    columns = (positions % out_w * stride_w)[:, :, None] + torch.arange(kernel_w) * step_w
    images = torch.arange(len(x))[:, None, None, None]
    patches = x[images, :, rows[:, :, :, None], columns[:, :, None, :]]  # [b, p, kh, kw, C]
    return patches.permute(0, 1, 4, 2, 3).flatten(2).flatten(0, 1)
