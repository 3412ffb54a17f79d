"""What this machine is called, as profiles name it."""

import os
import platform
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from lut.measure.memory import in_huge_pages
from lut.measure.runtime import RuntimeAbsent
from lut.profile import DeviceProfile

_QUERY_TIMEOUT_S = 30


def cpu_profile(runtime: str, version: str, threads: int, batch: int, layout: str = "nchw") -> DeviceProfile:
    """Return a float32 profile of this machine's CPU and this process's memory. Raises ValueError for threads or batch below 1."""
    _check(threads, batch)
    return DeviceProfile(
        hardware=cpu_name(), runtime=runtime, runtime_version=version, threads=threads, batch=batch, layout=layout,
        huge_pages=in_huge_pages(os.environ),
    )  # fmt: skip


def gpu_profile(
    runtime: str, version: str, threads: int, batch: int, dtype: str = "fp32", layout: str = "nchw"
) -> DeviceProfile:
    """Return a profile of this machine's first NVIDIA GPU; its driver belongs to the runtime's version.

    Raises RuntimeAbsent where there is none, ValueError for threads or batch below 1.
    """
    _check(threads, batch)
    name, driver = gpu_name()
    return DeviceProfile(
        hardware=name, runtime=runtime, runtime_version=f"{version}, driver {driver}",
        threads=threads, batch=batch, dtype=dtype, layout=layout,
    )  # fmt: skip


def cpu_name() -> str:
    """Return the CPU's name, and with it family and model, because a hypervisor often hides the name."""
    fields: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processor = fields.get("model name") or platform.processor() or platform.machine()
    if {"cpu family", "model"} <= fields.keys():
        processor += f" (family {fields['cpu family']} model {fields['model']})"
    return f"{processor}, {cores} cores"


def gpu_name() -> tuple[str, str]:
    """Return (name with the power limit, driver version) of the first NVIDIA GPU; its clocks follow the power limit.

    Raises RuntimeAbsent where the driver's tool finds none.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        raise RuntimeAbsent("there is no NVIDIA GPU here, or its driver is not installed: nvidia-smi is not found")
    query = "--query-gpu=name,power.limit,driver_version"
    try:
        answer = subprocess.run(
            [tool, query, "--format=csv,noheader", "--id=0"],
            capture_output=True, text=True, timeout=_QUERY_TIMEOUT_S, check=True,
        ).stdout  # fmt: skip
        name, power, driver = (part.strip() for part in answer.strip().split(","))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise RuntimeAbsent(f"nvidia-smi names no NVIDIA GPU here: {error}") from error
    return f"{name}, {power}", driver


def _check(threads: int, batch: int) -> None:
    if threads < 1 or batch < 1:
        raise ValueError(f"threads and batch must be at least 1, got {threads} and {batch}")
