"""Lock files: one worker per slot, one measuring or training child per physical device.

A lock belongs to an open file, so the kernel frees it the moment its holder dies, however it dies.
"""

import fcntl
import hashlib
import os
import re
from pathlib import Path


class SlotTaken(RuntimeError):
    """Another worker process of this machine holds the slot."""


def device_lock(folder: Path, device: str) -> Path:
    """Return the lock file of a physical device of this machine (`local`, later `cuda:0`)."""
    return folder / f"device-{_plain(device)}.lock"


def hold_slot(folder: Path, slot: int, database_url: str) -> int:
    """Take the slot for this process and return the descriptor that keeps it; raise SlotTaken when it is held.

    Workers of one database share slots whatever their data folders are, so the file is named after the database.
    """
    database = hashlib.sha256(database_url.encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"slot-{slot}-{database}.lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise SlotTaken(f"slot {slot} is held by another worker of this machine; choose another --slot") from error
    return lock


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)
