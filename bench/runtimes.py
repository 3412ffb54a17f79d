"""`python -m bench runtimes [--accuracy NETWORK...] [--runtimes NAME...] [--json]`: which runtimes are here.

With `--accuracy`, also how near the sum of a network's isolated operators comes to the whole network in each of them, one thread, batch 1, at
its dense widths: sum over whole, 1 is exact.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch

from lut.measure.networks import measure_models
from lut.measure.runtime import FILES, available, runtime
from lut.measure.tables import measure_points
from pruning.architectures import build
from pruning.groups import coupling_groups
from pruning.onnx_export import write
from pruning.operators import operators
from pruning.program import program
from pruning.trace import trace

SIZE = 224


def main(arguments: Sequence[str]) -> int:
    """Print one row per runtime, or per network and runtime; return 0."""
    parser = argparse.ArgumentParser(prog="python -m bench runtimes", description=__doc__)
    parser.add_argument("--accuracy", nargs="+", default=[], metavar="NETWORK")
    parser.add_argument("--runtimes", nargs="+", choices=list(FILES), default=list(FILES))
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(arguments)
    here = [one for one in available() if one.name in options.runtimes]
    for one in here:
        row = asdict(one)
        print(json.dumps(row) if options.json else f"{one.name:24} {one.version or '-':36} {one.reason}", flush=True)
    for name in options.accuracy:
        for row in _ratios(name, [one.name for one in here if one.version is not None]):
            print(json.dumps(row) if options.json else _line(row), flush=True)
    return 0


def _ratios(name: str, runtimes: Sequence[str]) -> Iterator[dict[str, Any]]:
    torch.manual_seed(0)
    network = trace(build(name, 1000), (3, SIZE, SIZE))
    groups = coupling_groups(network)
    full = {group.id: group.units for group in groups}
    points = [(op.signature, op.c_in.at(full), op.c_out.at(full)) for op in operators(network, groups)]
    whole = program(network, write(network, 1))
    for one in runtimes:
        profile = runtime(one).profile(1, 1)
        before, *_ = measure_models([whole], profile)
        sum_ms = measure_points(profile, points).predict_us(points) / 1e3
        after, *_ = measure_models([whole], profile)
        whole_ms = min(before.p50_ms, after.p50_ms)
        yield {"network": name, "runtime": one, "sum_ms": sum_ms, "whole_ms": whole_ms, "ratio": sum_ms / whole_ms}


def _line(row: dict[str, Any]) -> str:
    return f"{row['network']:28} {row['runtime']:24} sum {row['sum_ms']:8.2f} ms  whole {row['whole_ms']:8.2f} ms  {row['ratio']:.3f}"
