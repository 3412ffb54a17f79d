"""`python -m bench coverage [--networks NAME...] [--json]`: which networks can be pruned, and that pruning them is exact.

For each network: coupling groups, the share of its latency in layers whose width can change, masked dense output against slimmed output (at
random widths and with one unit in every group), ONNX Runtime against PyTorch on the slimmed network, and what stays dense with the reason and
its share of latency. Weights are random, BatchNorm statistics are the network's own on noise; errors are relative to the largest logit.
"""

import argparse
import gc
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lut.measure.networks import measure_models
from lut.measure.runtime import runtime
from lut.measure.tables import measure_points
from pruning.architectures import build
from pruning.dense import DenseLayer, dense_layers
from pruning.export import onnx_error, to_onnx
from pruning.groups import coupling_groups
from pruning.network import CouplingGroup, Keep, Network
from pruning.operators import operators
from pruning.slim import mask, slim
from pruning.trace import trace

_CIFAR = tuple(f"cifar/resnet{depth}-{option}" for depth in (20, 32, 44, 56, 110) for option in "ab")
_TORCHVISION = (
    "alexnet", "vgg11", "vgg16", "vgg16_bn", "vgg19_bn", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
    "resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "densenet121", "densenet169", "googlenet", "inception_v3",
    "squeezenet1_0", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "mnasnet0_5", "mnasnet1_0",
    "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "efficientnet_b0", "efficientnet_b1", "efficientnet_v2_s", "regnet_x_400mf",
    "regnet_y_400mf", "convnext_tiny", "vit_b_16", "swin_t", "swin_v2_t", "maxvit_t",
)  # fmt: skip
NETWORKS = (*_CIFAR, *(f"torchvision/{name}" for name in _TORCHVISION))
SIZES = {"cifar": 32, "torchvision/inception_v3": 299}
KEEP_SHARE = (0.3, 1.0)
"""Random widths are drawn between these shares of each group."""
HEADER = "| network | groups | prunable latency | slim error | ONNX error | kept dense (share of latency) |\n|---|---|---|---|---|---|"


def main(arguments: Sequence[str]) -> int:
    """Print one row per network; return 1 when one of them failed or was not exact."""
    parser = argparse.ArgumentParser(prog="python -m bench coverage", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-latency", action="store_true", help="measure nothing on this device")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(arguments)
    if not options.json:
        print(HEADER, flush=True)
    failed = []
    for name in options.networks:
        try:
            row = _row(name, options.seed, with_latency=not options.no_latency)
        except Exception as error:  # noqa: BLE001 - one network that fails shall not hide what the others do
            row = {"network": name, "failed": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(row) if options.json else _line(row), flush=True)
        exact = "failed" not in row and max(row["slim_error"], row["onnx_error"]) <= options.tolerance
        failed += [] if exact else [name]
        gc.collect()
    if failed:
        print(f"failed, or with an error above {options.tolerance:g}: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _row(name: str, seed: int, *, with_latency: bool) -> dict[str, Any]:
    torch.manual_seed(seed)
    size = SIZES.get(name) or SIZES.get(name.split("/")[0], 224)
    network = trace(_lively(build(name, 10), size), (3, size, size))
    groups = coupling_groups(network)
    images = torch.randn(2, 3, size, size)
    layers = dense_layers(network, groups)
    narrowest = {group.id: np.array([group.units // 2]) for group in groups if not group.frozen}
    slim_error = max(_slim_error(network, groups, keep, images) for keep in (_random_keep(groups, seed), narrowest))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        slimmed = slim(network, groups, _random_keep(groups, seed))
        to_onnx(slimmed, path)
        error = onnx_error(slimmed, path, seed)
        shares = {}
        if with_latency:
            to_onnx(network, path)
            shares = _shares(network, groups, layers, path)
    return {
        "network": name,
        "num_coupling_groups": sum(not group.frozen for group in groups),
        "prunable_latency_share": 1 - sum(shares.values()) if with_latency else None,
        **({} if with_latency else {"reason": "latency was not asked for"}),
        "slim_error": slim_error,
        "onnx_error": error.max_abs / error.largest_logit,
        "kept_dense": _reasons(layers, shares),
    }


def _lively(model: nn.Module, size: int) -> nn.Module:
    """Return the model in eval mode with weights and BatchNorm statistics under which every channel matters to the logits."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5)
            else:
                parameter.uniform_(0.3, 0.7)
        norms = [module for module in model.eval().modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.train().momentum = 1.0
        if norms:
            model(torch.randn(2, 3, size, size))
    return model.eval()


def _random_keep(groups: Sequence[CouplingGroup], seed: int) -> Keep:
    rng = np.random.default_rng(seed)
    keep = {}
    for group in groups:
        if not group.frozen:
            width = max(1, round(group.units * rng.uniform(*KEEP_SHARE)))
            keep[group.id] = np.sort(rng.choice(group.units, width, replace=False))
    return keep


def _slim_error(network: Network, groups: Sequence[CouplingGroup], keep: Keep, images: Tensor) -> float:
    """Return the largest difference between masked and slimmed logits, relative to the largest logit."""
    with torch.inference_mode():
        wanted: Tensor = mask(network, groups, keep).module(images)
        actual: Tensor = slim(network, groups, keep).module(images)
    if not wanted.isfinite().all() or not wanted.any():
        raise ValueError("the masked network gives no finite logits to compare")
    return float((wanted - actual).abs().max() / wanted.abs().max())


def _shares(
    network: Network, groups: Sequence[CouplingGroup], layers: Sequence[DenseLayer], dense: Path
) -> dict[str, float]:
    """Return the share of latency of each layer that stays dense, by node; all that has no price together as an empty name.

    Priced operators are measured one by one, at their dense widths; what has no price is the measured network less their sum.
    """
    costs, profile = operators(network, groups), runtime("onnxruntime").profile(1, 1)
    widths = {group.id: group.units for group in groups}
    points = {op.name: (op.signature, op.c_in.at(widths), op.c_out.at(widths)) for op in costs}
    table = measure_points(profile, points.values())
    latency_us = {name: table.latency_us(*point) for name, point in points.items()}
    total_us, rest_us = sum(latency_us.values()), 0.0
    if any(not layer.priced for layer in layers):
        (whole,) = measure_models([dense], profile, min_seconds=0.5, rounds=3)
        rest_us = max(0.0, 1000 * whole.p50_ms - total_us)
    shares = {layer.name: latency_us[layer.name] / (total_us + rest_us) for layer in layers if layer.priced}
    return {**shares, "": rest_us / (total_us + rest_us)}


def _reasons(layers: Sequence[DenseLayer], shares: dict[str, float]) -> list[dict[str, Any]]:
    """Return what stays dense by reason (names left out), with the number of layers and, where measured, their share."""
    kinds: dict[str, list[DenseLayer]] = {}
    for layer in layers:
        kinds.setdefault(re.sub(r" `[^`]*`", "", layer.reason) if layer.priced else "", []).append(layer)
    rows = []
    for reason, members in kinds.items():
        if not reason:
            counts = Counter(
                layer.reason.removeprefix("no latency table has a kind for ").split(" `")[0] for layer in members
            )
            reason = "no price: " + ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
        share = sum(shares.get(layer.name, 0.0) for layer in members) if members[0].priced else shares.get("", 0.0)
        rows.append({"reason": reason, "num_layers": len(members), "latency_share": share if shares else None})
    return rows


def _line(row: dict[str, Any]) -> str:
    if "failed" in row:
        return f"| {row['network']} | failed | | | | {row['failed']} |"
    kinds = [
        f"{kind['reason']} [{kind['num_layers']}]"
        + ("" if kind["latency_share"] is None else f" {kind['latency_share']:.1%}")
        for kind in row["kept_dense"]
    ]
    share = "-" if row["prunable_latency_share"] is None else f"{row['prunable_latency_share']:.1%}"
    return (
        f"| {row['network']} | {row['num_coupling_groups']} | {share} | {row['slim_error']:.1e} "
        f"| {row['onnx_error']:.1e} | {'; '.join(kinds) or '-'} |"
    )
