"""`python -m bench coverage [--networks NAME...] [--json]`: which networks can be pruned, and that pruning them is exact.

For each network: coupling groups, the share of its latency in layers whose width can change, masked dense output against slimmed output at
random widths, ONNX Runtime against PyTorch on the slimmed network, and what stays dense with the reason. Weights are random, BatchNorm
statistics are the network's own on noise; errors are relative to the largest logit where that is above 1.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lut.measure.onnxruntime import local_profile, measure_points
from pruning.architectures import build
from pruning.export import onnx_max_abs_error, to_onnx
from pruning.groups import coupling_groups
from pruning.network import CouplingGroup, Network
from pruning.operators import operators, unpriced
from pruning.slim import mask, slim
from pruning.trace import trace

NETWORKS = (
    "cifar/resnet20", "cifar/resnet56", "cifar/resnet56-b", "torchvision/alexnet", "torchvision/vgg11", "torchvision/vgg16_bn",
    "torchvision/resnet18", "torchvision/resnet50", "torchvision/resnet101", "torchvision/resnext50_32x4d", "torchvision/wide_resnet50_2",
    "torchvision/densenet121", "torchvision/googlenet", "torchvision/inception_v3", "torchvision/squeezenet1_0",
    "torchvision/squeezenet1_1", "torchvision/mobilenet_v2", "torchvision/mobilenet_v3_small", "torchvision/mobilenet_v3_large",
    "torchvision/mnasnet0_5", "torchvision/mnasnet1_0", "torchvision/shufflenet_v2_x0_5", "torchvision/shufflenet_v2_x1_0",
    "torchvision/efficientnet_b0", "torchvision/efficientnet_v2_s", "torchvision/regnet_x_400mf", "torchvision/regnet_y_400mf",
    "torchvision/convnext_tiny", "torchvision/vit_b_16", "torchvision/swin_t", "torchvision/swin_v2_t", "torchvision/maxvit_t",
)  # fmt: skip
SIZES = {"cifar": 32, "torchvision/inception_v3": 299}
KEEP_SHARE = (0.3, 1.0)
"""Random widths are drawn between these shares of each group."""


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
        print(
            "| network | groups | prunable latency | slim error | ONNX error | kept dense |\n|---|---|---|---|---|---|"
        )
    exact = True
    for name in options.networks:
        row = _row(name, options.seed, not options.no_latency)
        exact &= max(row["slim_max_abs_error"], row["onnx_max_abs_error"]) <= options.tolerance
        print(json.dumps(row) if options.json else _line(row), flush=True)
    if not exact:
        print(f"an error is above {options.tolerance:g}", file=sys.stderr)
    return 0 if exact else 1


def _row(name: str, seed: int, with_latency: bool) -> dict[str, Any]:
    torch.manual_seed(seed)
    size = SIZES.get(name) or SIZES.get(name.split("/")[0], 224)
    network = trace(_calibrated(build(name, 10), size), (3, size, size))
    groups = coupling_groups(network)
    keep = _random_keep(groups, seed)
    images = torch.randn(2, 3, size, size)
    slimmed = slim(network, groups, keep)
    with torch.inference_mode():
        wanted: Tensor = mask(network, groups, keep).module(images)
        actual: Tensor = slimmed.module(images)
    scale = max(1.0, float(wanted.abs().max()))
    with tempfile.TemporaryDirectory() as folder:
        to_onnx(slimmed, Path(folder) / "slim.onnx")
        onnx_error = onnx_max_abs_error(slimmed, Path(folder) / "slim.onnx", seed)
    share = _prunable_share(network, groups) if with_latency else None
    return {
        "network": name,
        "num_coupling_groups": sum(not group.frozen for group in groups),
        "prunable_latency_share": share,
        **({} if with_latency else {"reason": "latency was not asked for"}),
        "slim_max_abs_error": float((wanted - actual).abs().max()) / scale,
        "onnx_max_abs_error": onnx_error / scale,
        "kept_dense": [[group.id, group.frozen] for group in groups if group.frozen],
        "not_in_the_table": len(unpriced(network, groups)),
    }


def _calibrated(model: nn.Module, size: int) -> nn.Module:
    """Return the model in eval mode with BatchNorm statistics under which signal reaches its end."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = 1.0
    with torch.no_grad():
        model(torch.randn(4, 3, size, size))
    return model.eval()


def _random_keep(groups: Sequence[CouplingGroup], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    keep = {}
    for group in groups:
        if not group.frozen:
            width = max(1, round(group.units * rng.uniform(*KEEP_SHARE)))
            keep[group.id] = np.sort(rng.choice(group.units, width, replace=False))
    return keep


def _prunable_share(network: Network, groups: Sequence[CouplingGroup]) -> float:
    """Return the share of the sum of entries, measured at the dense widths, that belongs to operators whose channels can change."""
    costs = operators(network, groups)
    dense = {group.id: group.units for group in groups}
    points = [(op.signature, op.c_in.at(dense), op.c_out.at(dense)) for op in costs]
    table = measure_points(local_profile(1, 1), points)
    latency = np.array([table.latency_us(*point) for point in points])
    free = np.array([bool(op.c_in.terms or op.c_out.terms) for op in costs])
    return float(latency[free].sum() / latency.sum())


def _line(row: dict[str, Any]) -> str:
    reasons = sorted({reason for _, reason in row["kept_dense"]})
    dense = f"{len(row['kept_dense'])}: {'; '.join(reasons[:2])}" if reasons else "-"
    share = "-" if row["prunable_latency_share"] is None else f"{row['prunable_latency_share']:.1%}"
    return (
        f"| {row['network']} | {row['num_coupling_groups']} | {share} | {row['slim_max_abs_error']:.1e} "
        f"| {row['onnx_max_abs_error']:.1e} | {dense} |"
    )
