"""The physical device a worker owns, as the profile its latency tables belong to."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lut.profile import DeviceProfile

RUNTIME = "onnxruntime"
"""What a job runs on where it names no runtime."""


class UnknownDevice(ValueError):
    """No runtime of this machine serves the device."""


def describe(device: str) -> DeviceProfile:
    """Return the device's profile at one thread and batch 1; raise UnknownDevice for what this machine does not have.

    ONNX Runtime is found for it, torch is not loaded.
    """
    if device != "local":
        raise UnknownDevice(f"unknown device {device!r}: there is `local`, this machine, under ONNX Runtime by default")
    from lut.measure.runtime import runtime

    return runtime(RUNTIME).profile(threads=1, batch=1)


def profile_for(own: DeviceProfile, wanted: Mapping[str, Any]) -> tuple[DeviceProfile, str]:
    """Return the profile of a job's target on this machine, and a sentence that is empty unless its runtime is absent.

    `own` is the worker's own profile, `wanted` holds `threads`, `batch` and, where it is not the worker's, `runtime`.
    """
    name = wanted.get("runtime") or own.runtime
    here = replace(own, threads=wanted["threads"], batch=wanted["batch"])
    if name == own.runtime:
        return here, ""
    from lut.measure.runtime import RuntimeAbsent, runtime

    try:
        return runtime(name).profile(wanted["threads"], wanted["batch"]), ""
    except RuntimeAbsent as absent:
        text = str(absent)
        return replace(here, runtime=name, runtime_version="absent"), f"{name} cannot run here: {text}."
