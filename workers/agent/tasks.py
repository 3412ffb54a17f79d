"""What a service asks for, measured here."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lut.measure.networks import measure_models
from lut.measure.runtime import RuntimeAbsent, runtime
from lut.measure.tables import measure_step, measure_table
from lut.profile import DeviceProfile
from lut.request import GridRequest
from lut.signature import OpSignature
from lut.table import LatencyTable
from secateur.agent_schemas import Measurement

RUNTIMES = ("onnxruntime", "openvino", "onnxruntime_cuda", "onnxruntime_tensorrt")
"""Runtimes that run ONNX files; the first that is here is the device's own."""

Say = Callable[[float, float | None], None]
Keep = Callable[[dict[str, Any]], None]


def profiles(names: tuple[str, ...] = RUNTIMES) -> list[Mapping[str, Any]]:
    """Return this machine's profile for each of the runtimes that is here, at one thread and batch 1."""
    found: list[Mapping[str, Any]] = []
    for name in names:
        try:
            found.append(asdict(runtime(name).profile(threads=1, batch=1)))
        except (RuntimeAbsent, ImportError):
            continue
    return found


def measure(task: Measurement, files: Mapping[str, Path], say: Say, keep: Keep) -> dict[str, Any]:
    """Return the answer under its kind. `say` is told the fraction and the seconds left, `keep` a table half-way.

    Raises ValueError and RuntimeAbsent for what cannot be measured here.
    """
    profile = DeviceProfile(**task.profile.model_dump())
    match task.kind:
        case "networks":
            networks = [files[sha256] for sha256 in task.files]
            wanted = {name: task.payload[name] for name in ("min_seconds", "min_runs") if name in task.payload}
            timings = measure_models(networks, profile, **wanted, progress=lambda part: say(part, None))
            return {"networks": [asdict(one) for one in timings]}
        case "step":
            return {"step": measure_step(profile, _requests(task), lambda done, total: say(done / total, None))}
        case "table":
            return {"table": _table(task, profile, say, keep).to_json()}


def _table(task: Measurement, profile: DeviceProfile, say: Say, keep: Keep) -> LatencyTable:
    """Return what is measured beyond `known`, the entries of an agent that was lost included."""
    known = LatencyTable.from_json(task.payload["known"])
    begun = LatencyTable.from_json(task.begun) if task.begun else None
    start = time.monotonic()

    def progress(done: int, total: int) -> None:
        elapsed_s = time.monotonic() - start
        say(done / max(1, total), elapsed_s * (total - done) / done if done else None)

    table = measure_table(
        profile, _requests(task), known, progress, begun=begun, keep=lambda part: keep(part.to_json())
    )
    fresh = {
        signature: {point: entry for point, entry in points.items() if point not in known.entries.get(signature, {})}
        for signature, points in table.entries.items()
    }
    return replace(table, entries={signature: points for signature, points in fresh.items() if points})


def _requests(task: Measurement) -> list[GridRequest]:
    return [
        GridRequest(
            signature=OpSignature.from_json(one["signature"]),
            c_ins=tuple(one["c_ins"]),
            c_outs=tuple(one["c_outs"]),
            paired=one["paired"],
            count=one["count"],
        )
        for one in task.payload["requests"]
    ]
