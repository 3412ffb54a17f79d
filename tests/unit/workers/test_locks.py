"""Slots are held by one process at a time, and a frozen holder can be ended."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.locks import Slots, SlotTaken, device_lock

HOLD = """
import sys, time
from pathlib import Path
from workers.locks import Slots
with Slots(folder=Path(sys.argv[1]), database_url="sqlite:///a").hold(0, "host/0:1"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    """Slots of this machine for one database."""
    return Slots(folder=tmp_path, database_url="sqlite:///a")


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process, which holds slot 0 as the worker `host/0:1`."""
    root = Path(__file__).parent.parent.parent.parent
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=root, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_slot_is_held_until_its_holder_dies(slots: Slots, holder: subprocess.Popen[bytes], tmp_path: Path) -> None:
    with pytest.raises(SlotTaken, match="slot 0"), slots.hold(0, "host/0:2"):
        pass
    with slots.hold(1, "host/1:1"), Slots(folder=tmp_path, database_url="sqlite:///b").hold(0, "host/0:2"):
        pass
    holder.kill()
    holder.wait()
    with slots.hold(0, "host/0:2"):
        pass


def test_only_the_named_worker_is_ended_and_only_if_frozen_when_so_asked(
    slots: Slots, holder: subprocess.Popen[bytes]
) -> None:
    assert not slots.end_holder(7, "host/7:1", only_stopped=False), "nobody has that slot"
    assert not slots.end_holder(0, "host/0:0"), "the slot has a new holder by now"
    assert not slots.end_holder(0, "host/0:1", only_stopped=True), "it runs"
    assert holder.poll() is None
    holder.send_signal(signal.SIGSTOP)
    while not slots.end_holder(0, "host/0:1", only_stopped=True):
        pass
    assert holder.wait(30) == -signal.SIGKILL
    assert not slots.end_holder(0, "host/0:1"), "the dead hold nothing"


def test_a_device_has_one_lock_whatever_its_name(tmp_path: Path) -> None:
    assert device_lock(tmp_path, "cuda:0") == tmp_path / "device-cuda_0.lock"
    assert device_lock(tmp_path, "../../etc").parent == tmp_path
