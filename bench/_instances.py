"""Published solver instances (one JSON list a file, plain or gzip) as problems of `pruning.problem`."""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pruning.problem import Layer, Problem, Stage, WidthChoice

NS_PER_US = 1000


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
    """Return the instances of a file; raises ValueError when it is not in the format."""
    content = path.read_bytes()
    data = json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
    try:
        return [
            Instance(
                name=one["instance"],
                problem=to_problem(one),
                official=one.get("official_mdp") or {},
                exact=one.get("exact_opt_1us") or {},
            )
            for one in data
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a list of solver instances ({error!r})") from error


def to_problem(instance: dict[str, Any]) -> Problem:
    """Return one instance as a problem: values of inactive layers and of the stem are left out, the stem stays full."""
    active = [layer for layer in instance["layers"] if layer.get("active", True)]
    stem = instance["layers"][0]["group"] if "value_cum" in instance["layers"][0] else None
    least = {g["id"]: g["n_groups"] if g["id"] == stem else g.get("min_keep", 1) for g in instance["groups"]}
    widths = {g["id"]: tuple(range(least[g["id"]], g["n_groups"] + 1)) for g in instance["groups"]}
    return Problem(
        groups=tuple(WidthChoice(id=group_id, widths=kept) for group_id, kept in widths.items()),
        layers=tuple(_layer(layer, widths, stem) for layer in active),
        group_value={
            g["id"]: np.array(g["value_cum"], dtype=np.float64)[list(widths[g["id"]])]
            for g in instance["groups"]
            if g.get("value_cum")
        },
        budget_ns=instance["capacity_us"] * NS_PER_US,
        stages=_stages(active),
    )


def _layer(layer: dict[str, Any], widths: dict[str, tuple[int, ...]], stem: str | None) -> Layer:
    table = np.array(layer["latency_us"], dtype=np.int64)
    rows = list(widths[layer["group"]])
    if table.ndim == 2:
        latency = table[np.ix_(rows, list(widths[layer["pre_group"]]))].T
        inputs: tuple[str, ...] = (layer["pre_group"],)
    else:
        latency, inputs = table[rows][None], ()
    cumulated = None if layer["group"] == stem else layer.get("value_cum")
    value = (
        np.zeros(latency.shape)
        if cumulated is None
        else np.broadcast_to(np.array(cumulated, float)[rows], latency.shape)
    )
    return Layer(
        name=layer["name"],
        inputs=inputs,
        output=layer["group"],
        value=value[None].astype(np.float64),
        latency_ns=latency[None] * NS_PER_US,
    )


def _stages(active: list[dict[str, Any]]) -> tuple[Stage, ...]:
    stages = []
    for block in sorted({layer.get("block") or 0 for layer in active} - {0}):
        inside = [layer for layer in active if layer.get("block") == block]
        outside = [layer for layer in active if layer.get("block") != block]
        touched = {layer["group"] for layer in outside} | {layer["pre_group"] for layer in outside}
        inner = {layer["group"] for layer in inside} | {layer["pre_group"] for layer in inside if layer["pre_group"]}
        name = ".".join(inside[0]["name"].split(".")[:2])
        stages.append(
            Stage(id=name, layers=tuple(layer["name"] for layer in inside), groups=tuple(sorted(inner - touched)))
        )
    return tuple(stages)
