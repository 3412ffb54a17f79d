"""Least-squares repair of a slimmed network: no labels, no training, a few hundred images (method section 8).

Layer after layer, in graph order, the weights of every convolution and linear layer whose input has changed are solved
again, so that on the slimmed network's own activations the layer gives what the dense layer gave. Where the layer ends
in a residual add, the target is the dense sum minus the slimmed network's other branch, so that each block also repairs
what the blocks before it got wrong.

Letters: r = rows (sampled positions of all images), d = inputs of a layer (channels x kernel), o = its output channels.
"""

import copy
import operator
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, fx, nn

from pruning.activations import NodeRunner, Targets, Wanted, input_rows, output_rows
from pruning.data import Split
from pruning.evaluate import Accuracy, accuracy
from pruning.modules import ChannelAffine
from pruning.moments import Moments
from pruning.network import CouplingGroup, Keep, Network

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


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One layer to solve, with the affine map behind it and the sum that ends its branch."""

    node: fx.Node
    layer: nn.Conv2d | nn.Linear
    affine: str | None
    sum: fx.Node | None
    other: fx.Node | None
    kept: Tensor
    """int64 [o]: output channels of the dense layer that the slimmed layer still has."""

    @property
    def wanted(self) -> Wanted:
        """The dense outputs to be matched."""
        source = self.node if self.sum is None else self.sum
        linear = isinstance(self.layer, nn.Linear)
        return Wanted(layer=self.node.name, node=source.name, kept=self.kept, channels_last=linear)


def reconstruct(
    dense: Network,
    slimmed: Network,
    groups: Sequence[CouplingGroup],
    keep: Keep,
    images: Tensor,
    *,
    seed: int = 0,
    memory_bytes: int = MEMORY_BYTES,
    progress: Callable[[float], None] | None = None,
) -> Reconstruction:
    """Return a copy of `slimmed` whose layers were solved again to give what the dense layers give on `images`.

    Minimises `||Y - X V - c||^2 + ridge * ||V - W||^2` for each layer, W the weights as cut: a layer is never further
    from its target on the sampled rows than it was. Depthwise convolutions lose no inputs and stay as they are.

    Args:
        dense: the network before slimming, with the same node names and the same head.
        slimmed: what `slim` made of it.
        groups: coupling groups of `dense`.
        keep: kept units of each group, as given to `slim`.
        images: float32 [n, C, H, W], normalised, of the user's classes; 256 are enough.
        seed: of the sampled positions, 64 an image.
        memory_bytes: bound on the activations held at a time; fewer images are used where it would be passed.
    """
    start = time.perf_counter()
    network = replace(slimmed, module=copy.deepcopy(slimmed.module).eval())
    tasks, left = _tasks(dense, network, groups, keep)
    modules = dict(network.module.named_modules())
    fits: list[LayerFit] = []
    with torch.inference_mode():
        images = images[: _num_affordable(network.module, images, memory_bytes)]
        targets = Targets(dense.module, [task.wanted for task in tasks.values()], images, seed, memory_bytes // 2)
        runner = NodeRunner(network.module, images)
        for done, node in enumerate(runner.nodes()):
            if node in tasks:
                fits.append(_solve(tasks[node], modules, runner, targets))
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


def _solve(task: _Task, modules: Mapping[str, nn.Module], runner: NodeRunner, targets: Targets) -> LayerFit:
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
    old = layer.weight.reshape(parts, -1, layer.weight[0].numel()).transpose(1, 2).double()
    old_bias = (torch.zeros(len(layer.weight)) if layer.bias is None else layer.bias).double().view(parts, -1)
    new, new_bias = moments.solve(old, intercept=layer.bias is not None or affine is not None)
    live = alive.view(parts, -1)
    new, new_bias = torch.where(live[:, None], new, old), torch.where(live, new_bias, old_bias)
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


def _tasks(
    dense: Network, slimmed: Network, groups: Sequence[CouplingGroup], keep: Keep
) -> tuple[dict[fx.Node, _Task], dict[str, str]]:
    """Return the layers to solve by their node in the slimmed graph, and those that are left with the reason."""
    old, new = dict(dense.module.named_modules()), dict(slimmed.module.named_modules())
    order = {node: place for place, node in enumerate(slimmed.module.graph.nodes)}
    names = {node.name for node in dense.module.graph.nodes}
    calls = Counter(str(node.target) for node in order if node.op == "call_module")
    tasks: dict[fx.Node, _Task] = {}
    left: dict[str, str] = {}
    for node in _changed(dense.module, slimmed.module):
        layer = new.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        reason = _why_not(layer, calls[str(node.target)], node.name in names)
        if reason:
            left[str(node.target)] = reason
            continue
        affine, end, other = _branch_end(node, new, order)
        if end is not None and end.name not in names:
            end = other = None
        kept = _kept_outputs(str(node.target), _weight(old[str(node.target)]).shape[0], groups, keep)
        assert len(kept) == len(layer.weight), f"{node.target}: {len(kept)} outputs kept, {len(layer.weight)} there"
        tasks[node] = _Task(node=node, layer=layer, affine=affine, sum=end, other=other, kept=kept)
    return tasks, left


def _changed(dense: fx.GraphModule, slimmed: fx.GraphModule) -> list[fx.Node]:
    """Return the slimmed graph's nodes, in order, whose input is no longer what the dense network gives them."""
    old, new = dict(dense.named_modules()), dict(slimmed.named_modules())
    read = {node.name: [source.name for source in node.all_input_nodes] for node in dense.graph.nodes}
    changed: dict[fx.Node, None] = {}
    for node in slimmed.graph.nodes:
        layer = new.get(str(node.target)) if node.op == "call_module" else None
        lost = isinstance(layer, nn.Conv2d | nn.Linear) and (
            str(node.target) not in old or _weight(old[str(node.target)]).shape[1] != layer.weight.shape[1]
        )
        rewired = [source.name for source in node.all_input_nodes] != read.get(node.name)
        if lost or rewired or any(source in changed for source in node.all_input_nodes):
            changed[node] = None
    return list(changed)


def _weight(layer: nn.Module) -> Tensor:
    assert isinstance(layer.weight, Tensor)
    return layer.weight


def _why_not(layer: nn.Conv2d | nn.Linear, num_calls: int, in_dense: bool) -> str:
    if num_calls > 1:
        return "the layer is used at several places"
    if not in_dense:
        return "the layer has no counterpart in the dense network"
    if isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1:
        return "it is depthwise: no channel it reads was cut"
    if isinstance(layer, nn.Conv2d) and (layer.padding_mode != "zeros" or isinstance(layer.padding, str)):
        return "its padding is not a number of zeros"
    return ""


def _branch_end(
    node: fx.Node, modules: Mapping[str, nn.Module], order: Mapping[fx.Node, int]
) -> tuple[str | None, fx.Node | None, fx.Node | None]:
    """Return (name of the affine map behind the layer, the sum that ends its branch, the sum's other branch)."""
    tail, affine = node, None
    follower = next(iter(node.users)) if len(node.users) == 1 else None
    if follower is not None and follower.op == "call_module":
        behind = modules[str(follower.target)]
        if isinstance(behind, nn.BatchNorm2d | ChannelAffine) and len(follower.users) == 1:
            tail, affine = follower, str(follower.target)
            follower = next(iter(follower.users))
    if follower is None or follower.target is not operator.add or len(follower.all_input_nodes) != 2:
        return affine, None, None
    other = next(side for side in follower.all_input_nodes if side is not tail)
    same_shape = other.meta.get("shape") == tail.meta.get("shape") is not None
    # The branch that comes last repairs the sum: the other one is known by then.
    return (affine, follower, other) if same_shape and order[other] < order[node] else (affine, None, None)


def _kept_outputs(module: str, num_outputs: int, groups: Sequence[CouplingGroup], keep: Keep) -> Tensor:
    mask = np.ones(num_outputs, dtype=bool)
    for group in groups:
        for slot in group.slots:
            if group.id in keep and slot.module == module and slot.axis != "in":
                mask[np.delete(slot.index, keep[group.id], axis=0).ravel()] = False
    return torch.from_numpy(np.flatnonzero(mask))
