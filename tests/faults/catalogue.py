"""The faults there are, what each needs, and how a run with one is carried out."""

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults import contract, faults
from tests.faults.databases import Postgres
from tests.faults.run import Run, Setup

_one_at_a_time = threading.Lock()
"""Migrations keep what they work on in the module."""


class NotHere(RuntimeError):
    """The fault cannot be made on this machine; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A kind of fault."""

    body: Callable[[Run], None]
    databases: tuple[str, ...] = ("sqlite", "postgres")
    settings: Mapping[str, Any] = field(default_factory=dict)


FAULTS: Mapping[str, Fault] = {
    "worker": Fault(body=faults.worker),
    "child": Fault(body=faults.child),
    "zombie": Fault(body=faults.zombie),
    "poison": Fault(body=faults.poison, settings={"max_attempts": 3}),
    "slot": Fault(body=faults.slot),
}


def carry_out(
    name: str, database: str, seed: str, folder: Path, shared: Postgres | None, *, shipped: bool
) -> float | None:
    """Carry out a run; return the longest recovery, None where no job was hit. Raises Broken and NotHere."""
    fault = FAULTS[name]
    with ExitStack() as stack:
        server = shared if database == "postgres" else None
        url = server.new_database() if server else f"sqlite:///{folder / 'home' / 'secateur.db'}"
        setup = Setup(
            fault=name, database=database, seed=seed, folder=folder, url=url, server=server, shipped=shipped
        )  # fmt: skip
        with _one_at_a_time:
            run = Run(setup=setup, settings=dict(fault.settings))
        stack.callback(run.close)
        fault.body(run)
        run.finish()
        contract.check(run)
        return max((hit.recovery_s for hit in run.hits if hit.recovery_s is not None), default=None)
