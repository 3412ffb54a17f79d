"""`python -m bench lowering [--networks NAME...] [--tiles B_OUTxB_IN...] [--quick] [--json]`: masks made fast.

For each network, tile shape, density and runtime: the dense network and its lowered versions, timed in turns in one run,
one thread, batch 1, float32. `max_abs_error` is the largest difference between the
lowered network's logits there and those of the masked network in PyTorch in float64, relative to the largest logit where
that is above 1; `masked_error` is the same of the masked network in that runtime, not lowered: what float32 rounds off
in a network of this depth, whoever runs it. Exact is what is below the tolerance or twice that. Every convolution
but the stem and depthwise ones is masked, and every linear layer but the head, with random masks that keep as many tiles
in every block-row; 64x1 gives each block-row a free list of channels. Weights are random, BatchNorm statistics the
masked network's own, on noise. Layers that do not pay stay dense (`pruning.lower.choose`).

`mkl_bsr` stands beside it: the masked 1x1 convolutions of stride 1 and the linear layers alone, as matrix products.
"""

import argparse
import copy
import json
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench._bsr import bsr_ms
from lut.measure.networks import measure_models
from lut.measure.runtime import Program, RuntimeAbsent
from lut.measure.runtime import runtime as named
from lut.pattern import Pattern
from lut.profile import DeviceProfile
from pruning.architectures import build
from pruning.lower.choose import choose, latency_ms
from pruning.lower.rewrite import kept_dense, lower
from pruning.lower.times import layer_times_us
from pruning.masked import masked_copy
from pruning.network import Network
from pruning.onnx_export import write
from pruning.patterns.masks import best_mask
from pruning.program import program
from pruning.slim import head_module
from pruning.trace import trace

TILES = {
    "torchvision/resnet50": ("64x1", "64x64"),
    "torchvision/vgg16": ("64x1", "64x64"),
    "torchvision/mobilenet_v2": ("16x1", "64x1"),
}
DENSITIES = (Fraction(1, 2), Fraction(1, 4), Fraction(1, 8), Fraction(1, 16))
RUNTIMES = ("onnxruntime", "openvino", "torch_eager", "torch_compile")
USUAL = ("onnxruntime", "openvino", "mkl_bsr")
SIZE = 224
MAX_CHOICE_PARAMETERS = 60_000_000
"""In larger networks every layer is lowered: choosing would hold many copies of their weights."""


def main(arguments: Sequence[str]) -> int:
    """Print one row per network, tiles, density and runtime; return 1 when one was not exact."""
    parser = argparse.ArgumentParser(prog="python -m bench lowering", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(TILES))
    parser.add_argument("--tiles", nargs="+", help="tile shapes instead of each network's own")
    parser.add_argument("--runtimes", nargs="+", choices=[*RUNTIMES, "mkl_bsr"], default=list(USUAL))
    parser.add_argument("--seconds", type=float, default=1.5, help="timed seconds of each network")
    parser.add_argument("--tolerance", type=float, default=1e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="ResNet-50, free lists, ONNX Runtime, all layers lowered")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(arguments)
    if options.quick:
        options.networks, options.tiles, options.runtimes = ["torchvision/resnet50"], ["64x1"], ["onnxruntime"]
    torch.set_num_threads(1)
    if not options.json:
        print("| network | pattern | sparsity | runtime | lowered layers | dense ms | lowered ms | speed-up | error |")
        print("|---|---|---|---|---|---|---|---|---|")
    exact = True
    for name in options.networks:
        for row in _rows(name, options):
            if row["max_abs_error"] is not None:
                exact &= row["max_abs_error"] <= max(options.tolerance, 2 * row.get("masked_error", 0.0))
            print(json.dumps(row) if options.json else _line(row), flush=True)
    if not exact:
        print(f"an error is above {options.tolerance:g}", file=sys.stderr)
    return 0 if exact else 1


def random_masks(network: Network, pattern: Pattern, seed: int) -> dict[str, Tensor]:
    """Return random masks under `pattern` of every layer but stem, depthwise convolutions and head."""
    generator = torch.Generator().manual_seed(seed)
    head = head_module(network)
    masks = {}
    for name, layer in network.module.named_modules():
        plain = isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.in_channels > 3
        if (plain or isinstance(layer, nn.Linear)) and name != head:
            masks[name] = best_mask(torch.rand(layer.weight.shape[:2], generator=generator), pattern)
            masks[name] = (
                masks[name].reshape(*masks[name].shape, *(1,) * (layer.weight.ndim - 2)).expand_as(layer.weight)
            )
    return masks


def _rows(name: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    torch.manual_seed(options.seed)
    network = trace(_calibrated(build(name, 1000)), (3, SIZE, SIZE))
    images = _images(1, options.seed + 1)
    for tile in options.tiles or TILES.get(name, ("64x1",)):
        patterns = [Pattern.parse(f"{tile}@{density}") for density in DENSITIES]
        masks = [random_masks(network, pattern, options.seed) for pattern in patterns]
        for runtime in options.runtimes:
            if runtime == "mkl_bsr":
                timings = [bsr_ms(network, one, pattern) for one, pattern in zip(masks, patterns, strict=True)]
            else:
                timings = _timings(network, masks, images, runtime, options)
            for pattern, one, mask in zip(patterns, timings, masks, strict=True):
                yield _row(name, pattern, runtime, one) | {"density_kept": _density(mask)}


def _timings(
    network: Network, masks: list[dict[str, Tensor]], images: Tensor, runtime: str, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Return times and errors of the lowered networks, one for each of `masks`, and of the dense one in the same run."""
    try:
        profile = named(runtime).profile(threads=1, batch=1)
    except RuntimeAbsent as absent:
        none = {"dense_ms": None, "lowered_ms": None, "max_abs_error": None, "reason": str(absent)}
        return [none for _ in masks]
    measure = latency_ms(profile, seconds=options.seconds / 5)
    few = sum(parameter.numel() for parameter in network.module.parameters()) <= MAX_CHOICE_PARAMETERS
    models, found = [program(network, write(network, 1))], []
    for one in masks:
        chosen = frozenset(set(one) - set(kept_dense(network, one)))
        if few and not options.quick:
            chosen = choose(network, one, measure, layer_times_us(network, one, profile))
        sparse = _masked(network, one)
        lowered = lower(sparse, {layer: one[layer] for layer in chosen})
        model = program(lowered, write(lowered, 1))
        expected = copy.deepcopy(sparse.module).double()(images.double()).detach().numpy()
        errors = {
            "max_abs_error": _error(model, profile, images, expected),
            "masked_error": _error(program(sparse, write(sparse, 1)), profile, images, expected),
        }
        models.append(model)
        found.append(errors | {"num_lowered": len(chosen), "num_masked": len(one)})
    dense, *timings = measure_models(models, profile, min_seconds=options.seconds)
    return [
        one | {"dense_ms": dense.p50_ms, "lowered_ms": timing.p50_ms, "busy": dense.busy or timing.busy}
        for one, timing in zip(found, timings, strict=True)
    ]


def _masked(network: Network, masks: dict[str, Tensor]) -> Network:
    """Return the masked network, scaled up and calibrated so that as much signal passes as before; otherwise deep
    networks would agree because nothing arrives.
    """
    sparse = masked_copy(network, masks)
    with torch.no_grad():
        for name, mask in masks.items():
            sparse.module.get_parameter(f"{name}.weight").mul_(mask.float().mean() ** -0.5)
    _calibrated(sparse.module)
    return sparse


def _calibrated(model: nn.Module) -> nn.Module:
    """Return the model in eval mode with BatchNorm statistics under which signal reaches its end."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train().momentum = 1.0
        else:
            module.training = False
    with torch.no_grad():
        model(_images(4, 0))
    return model.eval()


def _images(batch: int, seed: int) -> Tensor:
    """Return smooth noise: its images differ from each other, as photographs do, when they are averaged over."""
    generator = torch.Generator().manual_seed(seed)
    coarse, fine = (torch.randn(batch, 3, size, size, generator=generator) for size in (7, SIZE))
    return nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear") + fine / 2


def _error(model: Program, profile: DeviceProfile, images: Tensor, expected: np.ndarray) -> float:
    logits = named(profile.runtime).outputs(model, profile, images.numpy())
    difference = np.abs(logits - expected).max()
    return float(difference / max(1.0, np.abs(expected).max()))


def _density(masks: dict[str, Tensor]) -> float:
    """Return the share of the masked layers' weights that stays; small layers have too few wide tiles to come near."""
    return sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())


def _row(name: str, pattern: Pattern, runtime: str, timing: dict[str, Any]) -> dict[str, Any]:
    known = timing["dense_ms"] is not None
    return {
        "network": name,
        "pattern": pattern.id,
        "density": float(pattern.share),
        "block": pattern.tile_out,
        "runtime": runtime,
        "threads": 1,
        "batch": 1,
        "dense_ms": timing["dense_ms"],
        "lowered_ms": timing["lowered_ms"],
        "speedup": timing["dense_ms"] / timing["lowered_ms"] if known else None,
        "max_abs_error": timing["max_abs_error"],
    } | {
        key: value
        for key, value in timing.items()
        if key in ("reason", "masked_error", "num_lowered", "num_masked", "busy")
    }


def _line(row: dict[str, Any]) -> str:
    head = f"| {row['network']} | {row['pattern']} | {1 - row['density_kept']:.1%} | {row['runtime']} "
    if row["speedup"] is None:
        return head + f"| - | - | - | - | {row['reason']} |"
    layers = f"{row['num_lowered']}/{row['num_masked']}" if "num_lowered" in row else "alone"
    busy = " (busy machine)" if row.get("busy") else ""
    return head + (
        f"| {layers} | {row['dense_ms']:.2f} | {row['lowered_ms']:.2f} | {row['speedup']:.2f}x{busy} "
        f"| {row['max_abs_error']:.1e} |"
    )
