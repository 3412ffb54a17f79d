"""The faults there are, what each needs, and how a run with one is carried out."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.disks import small_disk
from tests.faults import contract, faults, outages
from tests.faults.api import api
from tests.faults.clock import Clock, NoClock
from tests.faults.databases import Postgres
from tests.faults.run import Run, Setup

DISK_BYTES = 24 << 20
_one_at_a_time = threading.Lock()
"""Migrations keep what they work on in the module."""


class NotHere(RuntimeError):
    """The fault cannot be made on this machine; the text says why."""


@contextmanager
def _nothing(folder: Path) -> Iterator[None]:
    del folder
    yield


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """A small disk for everything that the service keeps."""
    with ExitStack() as stack:
        try:
            stack.enter_context(small_disk(folder / "home", DISK_BYTES))
        except pytest.skip.Exception as reason:
            raise NotHere(str(reason)) from None
        yield


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A kind of fault."""

    body: Callable[[Run], None]
    databases: tuple[str, ...] = ("sqlite", "postgres")
    own_server: bool = False
    """Whether a run needs a database server of its own."""
    clocks: bool = False
    """Whether the clocks of workers and database are ours to set."""
    around: Callable[[Path], AbstractContextManager[None]] = _nothing
    settings: Mapping[str, Any] = field(default_factory=dict)


FAULTS: Mapping[str, Fault] = {
    "worker": Fault(body=faults.worker),
    "child": Fault(body=faults.child),
    "api": Fault(body=api),
    "postgres": Fault(body=outages.postgres, databases=("postgres",), own_server=True),
    "zombie": Fault(body=faults.zombie),
    "disk": Fault(body=outages.disk, around=_disk),
    "checkpoint": Fault(body=outages.checkpoint),
    "poison": Fault(body=faults.poison, settings={"max_attempts": 3}),
    "clock": Fault(body=outages.clock, own_server=True, clocks=True),
    "slot": Fault(body=faults.slot),
    "deploy": Fault(body=outages.deploy),
}


def carry_out(
    name: str, database: str, seed: str, folder: Path, shared: Postgres | None, *, shipped: bool
) -> float | None:
    """Carry out a run; return the longest recovery, None where no job was hit. Raises Broken and NotHere."""
    fault = FAULTS[name]
    with ExitStack() as stack:
        stack.enter_context(fault.around(folder))
        clocks: list[Clock] = []
        if fault.clocks:
            try:
                clocks = [Clock(folder, one) for one in ("workers", "server")[: 2 if database == "postgres" else 1]]
            except NoClock as reason:
                raise NotHere(str(reason)) from None
        server = None
        if database == "postgres":
            server = shared
            if fault.own_server:
                server = stack.enter_context(Postgres(clocks[1].environment if clocks else None))
            assert server is not None
        url = server.new_database() if server else f"sqlite:///{folder / 'home' / 'secateur.db'}"
        setup = Setup(
            fault=name, database=database, seed=seed, folder=folder, url=url, server=server, shipped=shipped
        )  # fmt: skip
        prefix = tuple(f"{key}={value}" for key, value in clocks[0].environment.items()) if clocks else ()
        with _one_at_a_time:
            run = Run(setup=setup, settings=dict(fault.settings), prefix=prefix, clocks=clocks)
        stack.callback(run.close)
        fault.body(run)
        run.finish()
        contract.check(run)
        return max((hit.recovery_s for hit in run.hits if hit.recovery_s is not None), default=None)
