"""Least-squares repair of a slimmed or masked network: no labels, no training, a few hundred images (method section 8).

Layer after layer, in graph order, the weights of every convolution and linear layer that is masked or whose input has
changed are solved again, so that on the new network's own activations the layer gives what the dense layer gave. Where
the layer ends in a residual add, the target is the dense sum minus the new network's other branch, so that each block
also repairs what the blocks before it got wrong.

Letters: r = rows (sampled positions of all images), d = inputs of a layer (channels x kernel), o = its output channels.
"""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from pruning.activations import NodeRunner, Targets, input_rows, output_rows
from pruning.data import Split
from pruning.evaluate import Accuracy, accuracy
from pruning.masked import Masks, apply_masks
from pruning.modules import ChannelAffine
from pruning.moments import Moments
from pruning.network import CouplingGroup, Keep, Network
from pruning.repairs import Repair, repairs

NUM_IMAGES = 256
MEMORY_BYTES = 2 << 30
DEAD_SCALE = 1e-6
"""A channel whose BatchNorm scale is this small beside the largest cannot be repaired through it."""


@dataclass(frozen=True, kw_only=True)
class LayerFit:
    """How well one layer gives the dense layer's output, as the share of the target's variance that is missed."""

    layer: str
    error_before: float
    """With the weights as cut."""
    error_after: float
    num_rows: int
    residual: bool
    """The target was a residual sum less the other branch."""


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """The repaired network and what was done to it."""

    network: Network
    layers: tuple[LayerFit, ...]
    left: dict[str, str]
    """Layers that lost inputs and were left as they were, with the reason."""
    num_images: int
    """Images that were used: fewer than were given where the activations of all would not fit in memory."""
    seconds: float


def reconstruct(
    dense: Network,
    slimmed: Network,
    groups: Sequence[CouplingGroup],
    keep: Keep,
    images: Tensor,
    *,
    masks: Masks | None = None,
    seed: int = 0,
    memory_bytes: int = MEMORY_BYTES,
    targets: Targets | None = None,
    progress: Callable[[float], None] | None = None,
) -> Reconstruction:
    """Return a copy of `slimmed` whose layers were solved again to give what the dense layers give on `images`.

    Minimises `||Y - X V - c||^2 + ridge * ||V - W||^2` for each layer, W the weights as cut: a layer is never further
    from its target on the sampled rows than it was. Masked weights are exactly zero, before and after. Depthwise
    convolutions lose no inputs and stay as they are.

    Args:
        dense: the network before slimming, with the same node names and the same head.
        slimmed: what `slim` made of it.
        groups: coupling groups of `dense`.
        keep: kept units of each group, as given to `slim`.
        images: float32 [n, C, H, W], normalised, of the user's classes; 256 are enough.
        masks: weights of `slimmed` that stay; layers without a mask keep all. Raises ValueError for a wrong shape.
        seed: of the sampled positions, 64 an image.
        memory_bytes: bound on the activations held at a time; fewer images are used where it would be passed.
        targets: the dense network's rows on these very images for (at least) the layers repaired here, held from network to network;
            left out, the dense network runs again.
    """
    start = time.perf_counter()
    network = replace(slimmed, module=copy.deepcopy(slimmed.module).eval())
    masks = masks or {}
    apply_masks(network.module, masks)
    tasks, left = repairs(dense, network, groups, keep, {name for name, mask in masks.items() if not mask.all()})
    modules = dict(network.module.named_modules())
    fits: list[LayerFit] = []
    with torch.inference_mode():
        if targets is None:
            images = images[: _num_affordable(network.module, images, memory_bytes)]
            targets = Targets(dense.module, [task.wanted for task in tasks.values()], images, seed, memory_bytes // 2)
        runner = NodeRunner(network.module, images)
        for done, node in enumerate(runner.nodes()):
            if node in tasks:
                fits.append(_solve(tasks[node], masks.get(str(node.target)), modules, runner, targets))
            if progress:
                progress((done + 1) / len(network.module.graph.nodes))
    return Reconstruction(
        network=network, layers=tuple(fits), left=left, num_images=len(images), seconds=time.perf_counter() - start
    )


def keep_better(before: Network, after: Network, selection: Split) -> tuple[Network, Accuracy, Accuracy]:
    """Return the network with the higher accuracy on the selection split (then the lower loss), and both accuracies."""
    old, new = accuracy(before, selection), accuracy(after, selection)
    better = (new.overall, -new.loss) >= (old.overall, -old.loss)
    return after if better else before, old, new


def _solve(
    task: Repair, mask: Tensor | None, modules: Mapping[str, nn.Module], runner: NodeRunner, targets: Targets
) -> LayerFit:
    """Solve one layer and write its weights, and its bias or the shift of the affine map behind it."""
    layer, affine = task.layer, modules[task.affine] if task.affine else None
    parts = layer.groups if isinstance(layer, nn.Conv2d) else 1
    scale, shift = _scale_and_shift(affine, len(layer.weight))
    alive = scale.abs() > DEAD_SCALE * scale.abs().max()
    moments = Moments.zeros(parts, layer.weight[0].numel(), len(layer.weight) // parts)
    for chunk, (y, positions) in enumerate(zip(*targets.take(task.node.name), strict=True)):
        if task.other is not None:
            other = output_rows(runner.values(task.other)[chunk], positions, isinstance(layer, nn.Linear))
            y = (y - other - shift) / torch.where(alive, scale, 1.0)
        moments.add(input_rows(layer, runner.values(task.node.all_input_nodes[0])[chunk], positions), y)
    old = _columns(layer.weight, parts).double()
    old_bias = (torch.zeros(len(layer.weight)) if layer.bias is None else layer.bias).double().view(parts, -1)
    kept = None if mask is None else _columns(mask, parts)
    new, new_bias = moments.solve(old, layer.bias is not None or affine is not None, kept)
    live = alive.view(parts, -1)
    better = live & (moments.error(new, new_bias) <= moments.error(old, old_bias))
    new, new_bias = torch.where(better[:, None], new, old), torch.where(better, new_bias, old_bias)
    per_output = torch.where(live, scale.double().square().view(parts, -1), 0.0)
    total = float((per_output * moments.variance()).sum()) or 1.0
    layer.weight.copy_(new.transpose(1, 2).reshape(layer.weight.shape))
    _shift_by(layer, affine, (new_bias - old_bias).flatten().float())
    return LayerFit(
        layer=str(task.node.target),
        error_before=float((per_output * moments.error(old, old_bias)).sum()) / total,
        error_after=float((per_output * moments.error(new, new_bias)).sum()) / total,
        num_rows=moments.num_rows,
        residual=task.sum is not None,
    )


def _columns(values: Tensor, parts: int) -> Tensor:
    """Return [parts, d, o / parts] of values in the shape of a layer's weight."""
    return values.reshape(parts, -1, values[0].numel()).transpose(1, 2)


def _scale_and_shift(affine: nn.Module | None, outputs: int) -> tuple[Tensor, Tensor]:
    """Return a, b [o] of the map `a * y + b` behind the layer."""
    if isinstance(affine, ChannelAffine):
        return affine.weight, affine.bias
    if isinstance(affine, nn.BatchNorm2d) and affine.running_mean is not None and affine.running_var is not None:
        gamma = affine.weight if affine.affine else torch.ones(outputs)
        beta = affine.bias if affine.affine else torch.zeros(outputs)
        scale = gamma / torch.sqrt(affine.running_var + affine.eps)
        return scale, beta - scale * affine.running_mean
    return torch.ones(outputs), torch.zeros(outputs)


def _shift_by(layer: nn.Conv2d | nn.Linear, affine: nn.Module | None, amount: Tensor) -> None:
    """Add `amount` [o] to the layer's output, through its own bias or through what follows it."""
    if layer.bias is not None:
        layer.bias.add_(amount)
    elif isinstance(affine, ChannelAffine):
        affine.bias.add_(affine.weight * amount)
    elif isinstance(affine, nn.BatchNorm2d) and affine.running_mean is not None:
        affine.running_mean.sub_(amount)


def _num_affordable(module: fx.GraphModule, images: Tensor, memory_bytes: int) -> int:
    """Return how many images' activations fit, by what one image needs."""
    runner = NodeRunner(module, images[:1])
    for _ in runner.nodes():
        pass
    return max(1, min(len(images), memory_bytes // max(1, runner.peak_bytes)))
