"""Lock files: one worker per slot, one measuring or training child per physical device.

A lock belongs to a process or an open file of it, so the kernel frees it the moment its holder dies, however it dies.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import signal
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FLOCK = "hhqqi"
"""Linux's `struct flock`: type, whence, start, length, pid."""


class SlotTaken(RuntimeError):
    """Another worker process of this machine holds the slot."""


def device_lock(folder: Path, device: str) -> Path:
    """Return the lock file of a physical device of this machine (`local`, later `cuda:0`)."""
    return folder / f"device-{re.sub(r'[^A-Za-z0-9._-]', '_', device)}.lock"


@dataclass(frozen=True, kw_only=True)
class Slots:
    """The worker slots of this machine for one database: whatever their data folders are, its workers share them."""

    folder: Path
    database_url: str

    @contextlib.contextmanager
    def hold(self, slot: int, worker_id: str) -> Iterator[None]:
        """Hold the slot for this process; raise SlotTaken when another one has it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._path(slot).open("a+") as file:
            try:
                # A POSIX lock and not a flock: the kernel tells whose it is.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                text = f"slot {slot} is held by another worker of this machine; choose another --slot"
                raise SlotTaken(text) from error
            file.truncate(0)
            file.write(worker_id)
            file.flush()
            yield

    def end_holder(self, slot: int, worker_id: str, *, only_stopped: bool = False) -> bool:
        """Kill the process that holds another slot, if that is the worker `worker_id`; return whether it was killed.

        A worker that was declared dead may be frozen: it keeps the device, and on SQLite perhaps the whole database.
        `only_stopped` spares a process that still runs. Never for the own slot: closing the file would free it.
        """
        if sys.platform != "linux" or not self._path(slot).exists():
            return False
        with self._path(slot).open("r+") as file:
            pid = _holder(file.fileno())
            if not pid or (only_stopped and _state(pid) != "T"):
                return False
            with contextlib.suppress(ProcessLookupError, PermissionError):
                process = os.pidfd_open(pid)
                try:
                    # Looked at again through a handle that outlives the number, so that no other process is hit.
                    if _holder(file.fileno()) == pid and file.read() == worker_id:
                        signal.pidfd_send_signal(process, signal.SIGKILL)
                        return True
                finally:
                    os.close(process)
            return False

    def _path(self, slot: int) -> Path:
        database = hashlib.sha256(self.database_url.encode()).hexdigest()[:12]
        return self.folder / f"slot-{slot}-{database}.lock"


def _holder(file: int) -> int:
    """Return the id of the process that holds the lock, 0 when nobody does or its id means nothing here."""
    question = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, *_, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, question))
    return int(pid) if kind != fcntl.F_UNLCK and pid > 0 else 0


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""
