"""The memory that networks are measured in: huge pages, kept by the process.

Weights of tens of megabytes, read once an inference, miss every cache of the processor's page table where pages are small
(4 KiB); on a virtual machine each miss is two walks. What that takes depends on neighbours and on where memory happens to lie:
on one machine a ResNet-18 took 30 to 100 ms, from one load to the next, and in huge pages (2 MiB) 24 ms each time. PyTorch also gives
every feature map back and faults it in again, unless the C library keeps it. glibc does both for who asks before it starts.
"""

import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "GLIBC_TUNABLES"
TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=8589934592"
"""Huge pages; no mapping of its own below 1 GiB, which the next run would fault in anew; nothing given back below 8 GiB."""
_HUGE = "glibc.malloc.hugetlb=1"
_LEAST_GLIBC = (2, 35)
_SYSTEM = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` for a process that measures: with these settings of glibc, unless it has some, be they empty."""
    return {VARIABLE: TUNABLES} | dict(environ)


def in_huge_pages(environ: Mapping[str, str]) -> bool:
    """Return whether a process that starts with `environ` gets huge pages of this system, unasked or because it asks."""
    try:
        system = _SYSTEM.read_text(encoding="ascii")
    except OSError:
        return False
    return "[always]" in system or ("[madvise]" in system and _HUGE in environ.get(VARIABLE, "") and _heeds_tunables())


def restart() -> None:
    """Start this program again in the same process, as one that measures, unless it is that already.

    For a program's very beginning: nothing that it did is kept.
    """
    if VARIABLE not in os.environ and in_huge_pages(environ := environment(os.environ)):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)


def _heeds_tunables() -> bool:
    library, version = platform.libc_ver()
    return library == "glibc" and tuple(int(part) for part in version.split(".")[:2]) >= _LEAST_GLIBC
