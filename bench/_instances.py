"""Published solver instances (one JSON list a file, plain or gzip) as problems of `pruning.problem`."""

import gzip
import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pruning.problem import COST_CEILING, Layer, Problem, Stage, WidthChoice, validate

NS_PER_US = 1000
GZIP = b"\x1f\x8b"


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One problem with the answers that were published for it."""

    name: str
    problem: Problem
    """Widths are steps of each group."""
    official: dict[str, Any]
    """The authors' answer: keep, removed_blocks, value, latency_us."""
    exact: dict[str, Any]
    """The exact optimum at 1 us, in the same form."""


def read_instances(path: Path) -> list[Instance]:
    """Return the instances of a file; raises ValueError, naming the instance and what is wrong, when it is not in the format."""
    try:
        content = path.read_bytes()
        data = json.loads(gzip.decompress(content) if content.startswith(GZIP) else content)
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(data, list) or not all(isinstance(one, dict) for one in data):
        raise ValueError(f"{path}: not a list of solver instances")
    return [_instance(path, number, one) for number, one in enumerate(data)]


def _instance(path: Path, number: int, one: dict[str, Any]) -> Instance:
    name = str(one.get("instance", f"number {number}"))
    try:
        problem = to_problem(one)
        validate(problem)
    except KeyError as error:
        raise ValueError(f"{path}: instance {name}: lacks or does not know {error}") from error
    except (TypeError, ValueError, AttributeError, LookupError, OverflowError) as error:
        raise ValueError(f"{path}: instance {name}: {error}") from error
    stated = [one.get(key) for key in ("official_mdp", "exact_opt_1us")]
    official, exact = (answer if isinstance(answer, dict) else {} for answer in stated)
    return Instance(name=name, problem=problem, official=official, exact=exact)


def to_problem(instance: dict[str, Any]) -> Problem:
    """Return one instance as a problem: values of inactive layers and of the stem are left out, the stem stays full.

    Fractions of a microsecond are kept to the nanosecond, latencies rounded up, the capacity down.
    """
    layers = [layer for layer in instance["layers"] if layer.get("active", True)]
    first = instance["layers"][0] if instance["layers"] else {}
    stem = first["group"] if "value_cum" in first else None
    if len({g["id"] for g in instance["groups"]}) < len(instance["groups"]):
        raise ValueError("two of one group id")
    steps = {g["id"]: _whole(g["n_groups"], "n_groups") for g in instance["groups"]}
    least = {
        g["id"]: steps[g["id"]] if g["id"] == stem else _whole(g.get("min_keep", 1), "min_keep")
        for g in instance["groups"]
    }
    widths = {group_id: tuple(range(least[group_id], most + 1)) for group_id, most in steps.items()}
    return Problem(
        groups=tuple(WidthChoice(id=group_id, widths=kept) for group_id, kept in widths.items()),
        layers=tuple(_layer(layer, widths, stem) for layer in layers),
        group_value={
            g["id"]: _numbers(g["value_cum"], (steps[g["id"]] + 1,), f"value_cum of group {g['id']}")[
                list(widths[g["id"]])
            ]
            for g in instance["groups"]
            if g.get("value_cum") is not None
        },
        budget_ns=math.floor(NS_PER_US * float(_numbers(instance["capacity_us"], (), "capacity_us"))),
        stages=_stages(layers),
    )


def _layer(layer: dict[str, Any], widths: dict[str, tuple[int, ...]], stem: str | None) -> Layer:
    name, group = str(layer["name"]), layer["group"]
    rows = list(widths[group])
    shape: tuple[int, ...] = (widths[group][-1] + 1,)
    tied = not any(isinstance(row, list) for row in layer["latency_us"])
    inputs: tuple[str, ...] = () if tied else (layer["pre_group"],)
    if not tied:
        shape += (widths[layer["pre_group"]][-1] + 1,)
    table = _numbers(layer["latency_us"], shape, f"latency_us of layer {name}")
    if np.abs(table).max(initial=0.0) * NS_PER_US >= COST_CEILING:
        raise ValueError(f"latency_us of layer {name}: larger than any latency")
    latency_ns = np.ceil(np.round(NS_PER_US * table, 3)).astype(np.int64)
    latency_ns = latency_ns[rows][None] if tied else latency_ns[np.ix_(rows, list(widths[layer["pre_group"]]))].T
    value = np.zeros(latency_ns.shape)
    if group != stem and layer.get("value_cum") is not None:
        value += _numbers(layer["value_cum"], shape[:1], f"value_cum of layer {name}")[rows]
    return Layer(name=name, inputs=inputs, output=group, value=value[None], latency_ns=latency_ns[None])


def _whole(number: object, what: str) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise ValueError(f"{what} must be a whole number, got {number!r}")
    return number


def _numbers(data: object, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Return float64 of this shape; raises ValueError when there are other numbers, or what is none."""
    try:
        numbers = np.array(data)
    except ValueError as error:
        raise ValueError(f"{what}: rows of different lengths") from error
    if numbers.dtype.kind not in "iuf" or numbers.shape != shape or not np.isfinite(numbers).all():
        raise ValueError(f"{what}: wants finite numbers of shape {shape}, got {numbers.dtype} of shape {numbers.shape}")
    return numbers.astype(np.float64)


def _stages(active: list[dict[str, Any]]) -> tuple[Stage, ...]:
    stages = []
    for block in sorted({layer.get("block") or 0 for layer in active} - {0}):
        inside = [layer for layer in active if layer.get("block") == block and "downsample" not in layer["name"]]
        outside = [layer for layer in active if layer not in inside]
        inner = _groups(inside) - _groups(outside)
        if not inside:
            continue
        name = ".".join(inside[0]["name"].split(".")[:2])
        stages.append(Stage(id=name, layers=tuple(layer["name"] for layer in inside), groups=tuple(sorted(inner))))
    return tuple(stages)


def _groups(layers: list[dict[str, Any]]) -> set[str]:
    """Return the groups that any of the layers reads or writes."""
    return {layer[side] for layer in layers for side in ("group", "pre_group") if layer.get(side) is not None}
