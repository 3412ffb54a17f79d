"""Memory of processes that measure: huge pages where the system has them, and nothing faulted in twice."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from lut.measure.hardware import cpu_profile
from lut.measure.memory import TUNABLES, VARIABLE, environment, in_huge_pages
from lut.profile import DeviceProfile

PLAIN = {name: value for name, value in os.environ.items() if name != VARIABLE}
PROFILE = DeviceProfile(hardware="desk", runtime="none", runtime_version="1", threads=1, batch=1)
TOUCHES = """
import resource
import numpy as np
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(10_000_000, np.float32)
before = faults()
for _ in range(5):
    np.ones(10_000_000, np.float32)
kept = np.ones(10_000_000, np.float32)
huge = sum(int(line.split()[1]) for line in open("/proc/self/smaps") if line.startswith("AnonHugePages"))
print(faults() - before, huge >> 10)
"""
needs_huge_pages = pytest.mark.skipif(
    not in_huge_pages(environment(PLAIN)), reason="this system gives no huge pages to who asks"
)


def told(code: str, environ: Mapping[str, str], *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments], env=dict(environ), cwd=Path(__file__).parents[3],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.split()


@needs_huge_pages
def test_a_process_that_measures_has_its_memory_in_huge_pages_and_keeps_it() -> None:
    faults, huge_mib = map(int, told(TOUCHES, environment(PLAIN)))
    assert faults < 1000, "of five times 9,766 pages"
    assert huge_mib >= 30


@needs_huge_pages
def test_a_program_starts_again_as_one_that_measures_once_and_with_its_arguments() -> None:
    code = (
        "import os, sys; from lut.measure.memory import restart; print('once', flush=True); restart(); "
        "print(os.environ['GLIBC_TUNABLES'], *sys.argv[1:])"
    )
    root = {"PYTHONPATH": str(Path(__file__).parents[3])}
    assert told(code, PLAIN | root, "a", "b") == ["once", "once", TUNABLES, "a", "b"]
    own = "glibc.malloc.check=0"
    assert told(code, PLAIN | root | {VARIABLE: own}, "a") == ["once", own, "a"], "whoever set it, keeps it"


def test_who_sets_it_empty_gets_ordinary_pages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    system = tmp_path / "enabled"
    monkeypatch.setattr("lut.measure.memory._SYSTEM", system)
    asks, not_asking = environment(PLAIN), environment(PLAIN | {VARIABLE: ""})
    assert not_asking[VARIABLE] == ""
    for setting, unasked in (("[always] madvise never", True), ("always [madvise] never", False)):
        system.write_text(setting)
        assert in_huge_pages(not_asking) is unasked
    assert in_huge_pages(asks) or sys.platform != "linux"
    system.write_text("always madvise [never]")
    assert not in_huge_pages(asks)
    system.unlink()
    assert not in_huge_pages(asks), "no such setting: another system"


def test_a_profile_says_what_memory_it_is_of_and_older_ones_keep_their_identity() -> None:
    assert cpu_profile("none", "1", 1, 1).huge_pages == in_huge_pages(os.environ)
    assert PROFILE.fingerprint == "7837d5974568e496"
    assert replace(PROFILE, huge_pages=True).fingerprint != PROFILE.fingerprint
