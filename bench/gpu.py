"""`python -m bench gpu [--network NAME] [--batch N] [--json]`: masks on an NVIDIA GPU, layer by layer and whole.

Each layer that may have a pattern, and the whole network: dense, under 2:4 (semi-structured products where the layer is one, which is half
precision alone), and lowered (64x1@1/2: as many weights), in float32 and in half precision, eager and as CUDA graphs. Weights are random and
masks the best by their size. `max_abs_error` is the largest difference of the whole network's logits from those of the same masked network in
float64 on the CPU, relative to the largest logit where that is above 1. Without a GPU there is one sentence.
"""

import argparse
import copy
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lut.measure.networks import measure_models
from lut.measure.runtime import Program, RuntimeAbsent, runtime
from lut.measure.tables import measure_points
from lut.pattern import Pattern
from lut.profile import DeviceProfile
from lut.signature import OpSignature
from pruning.architectures import build
from pruning.groups import coupling_groups
from pruning.lower.rewrite import lower
from pruning.lower.semi_structured import sparse_layers
from pruning.masked import masked_copy
from pruning.network import Network
from pruning.onnx_export import write
from pruning.operators import operators
from pruning.patterns.masks import best_mask
from pruning.patterns.tables import maskable
from pruning.program import program
from pruning.trace import trace

RUNTIMES = ("torch_cuda", "torch_cuda_graph", "torch_cuda_fp16", "torch_cuda_graph_fp16")
VARIANTS = {"dense": "", "2:4": "2:4", "lowered": "64x1@1/2"}
SIZE = 224
HALF_ONLY = "semi-structured products run in half precision alone"
Point = tuple[OpSignature, int, int]


def main(arguments: Sequence[str]) -> int:
    """Print one row per layer shape, variant and runtime, then the whole network's; return 0, also where there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m bench gpu", description=__doc__)
    parser.add_argument("--network", default="torchvision/resnet50")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=1.0, help="timed seconds of each whole network")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(arguments)
    try:
        profiles = [runtime(name).profile(1, options.batch) for name in RUNTIMES]
    except RuntimeAbsent as absent:
        print(json.dumps({"network": options.network, "reason": str(absent)}) if options.json else f"{absent}.")
        return 0
    torch.manual_seed(0)
    network = trace(_calibrated(build(options.network, 1000)), (3, SIZE, SIZE))
    for profile in profiles:
        for row in (*_layers(network, profile), *_whole(network, profile, options.seconds)):
            known = {
                "network": options.network,
                "runtime": profile.runtime,
                "gpu": profile.hardware,
                "batch": options.batch,
            }
            print(json.dumps(known | row) if options.json else _line(known | row), flush=True)
    return 0


def _layers(network: Network, profile: DeviceProfile) -> Iterator[dict[str, Any]]:
    """Rows of every layer shape that may have a pattern, its operator by itself."""
    groups = coupling_groups(network)
    full = {group.id: group.units for group in groups}
    costs = operators(network, groups)
    chosen = maskable(network, costs)
    counts = Counter((op.signature, op.c_in.at(full), op.c_out.at(full)) for op in costs if op.name in chosen)
    here = runtime(profile.runtime)
    points = {
        (point, variant): (replace(point[0], pattern=pattern), *point[1:])
        for point in counts
        for variant, pattern in VARIANTS.items()
    }
    table = measure_points(profile, [point for point in points.values() if here.runs(point[0])])
    for (point, variant), wanted in points.items():
        signature, c_in, c_out = point
        shape = {
            "kernel": signature.kernel[0],
            "size": signature.height,
            "stride": signature.stride[0],
            "c_in": c_in,
            "c_out": c_out,
        }
        row = {"kind": "layer", "variant": variant, **shape, "count": counts[point]}
        if not here.runs(wanted[0]):
            yield row | {
                "latency_ms": None,
                "speedup": None,
                "reason": HALF_ONLY if profile.dtype == "fp32" else "no matrix product",
            }
            continue
        latency_us = table.latency_us(*wanted)
        yield row | {"latency_ms": latency_us / 1e3, "speedup": table.latency_us(*point) / latency_us}


def _whole(network: Network, profile: DeviceProfile, seconds: float) -> Iterator[dict[str, Any]]:
    """Rows of the whole network, all variants timed in turns."""
    images = torch.randn(profile.batch, *network.input_shape, generator=torch.Generator().manual_seed(1))
    half = profile.dtype == "fp16"
    made = {
        variant: _variant(network, pattern, half) for variant, pattern in VARIANTS.items() if half or variant != "2:4"
    }
    timings = measure_models([one for one, _, _ in made.values()], profile, min_seconds=seconds)
    dense_ms = timings[0].p50_ms
    for (variant, (one, masked, num_sparse)), timing in zip(made.items(), timings, strict=True):
        yield {
            "kind": "whole", "variant": variant, "latency_ms": timing.p50_ms, "p90_ms": timing.p90_ms,
            "speedup": dense_ms / timing.p50_ms, "num_sparse": num_sparse,
            "max_abs_error": _error(one, masked, profile, images),
        }  # fmt: skip
    if not half:
        none = {"latency_ms": None, "speedup": None, "max_abs_error": None}
        yield {"kind": "whole", "variant": "2:4", **none, "reason": HALF_ONLY}


def _variant(network: Network, pattern: str, half: bool) -> tuple[Program, Network, int]:
    """Return what is timed, the masked network it equals, and its semi-structured layers."""
    masks = _masks(network, Pattern.parse(pattern)) if pattern else {}
    masked = masked_copy(network, masks)
    lowered = lower(network, masks)
    return program(lowered, write(lowered, 1), two_of_four=half), masked, len(sparse_layers(lowered))


def _masks(network: Network, pattern: Pattern) -> dict[str, Tensor]:
    modules = maskable(network, operators(network, coupling_groups(network))).values()
    return {name: best_mask(network.module.get_submodule(name).weight.detach().abs(), pattern) for name in modules}  # type: ignore[operator]


def _error(one: Program, masked: Network, profile: DeviceProfile, images: Tensor) -> float:
    expected = copy.deepcopy(masked.module).double()(images.double()).detach().numpy()
    actual = runtime(profile.runtime).outputs(one, profile, images.numpy())
    return float(np.abs(actual - expected).max() / max(1.0, np.abs(expected).max()))


def _calibrated(model: nn.Module) -> nn.Module:
    """Return the model in eval mode with BatchNorm statistics under which signal reaches its end."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train().momentum = 1.0
        else:
            module.training = False
    with torch.no_grad():
        model(torch.randn(4, 3, SIZE, SIZE))
    return model.eval()


def _line(row: dict[str, Any]) -> str:
    what = (
        "whole"
        if row["kind"] == "whole"
        else f"{row['kernel']}x{row['kernel']} {row['c_in']}->{row['c_out']} at {row['size']}"
    )
    head = f"{row['runtime']:24} {what:28} {row['variant']:8}"
    if row["latency_ms"] is None:
        return f"{head} - {row['reason']}"
    error = f"  error {row['max_abs_error']:.1e}" if "max_abs_error" in row else ""
    return f"{head} {row['latency_ms']:9.4f} ms  {row['speedup']:5.2f}x{error}"
