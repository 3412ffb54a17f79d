"""Slots are held by one process at a time."""

import os
from pathlib import Path

import pytest

from workers.locks import SlotTaken, device_lock, hold_slot


def test_a_slot_is_held_until_its_holder_lets_go(tmp_path: Path) -> None:
    lock = hold_slot(tmp_path, 0, "sqlite:///a")
    with pytest.raises(SlotTaken, match="slot 0"):
        hold_slot(tmp_path, 0, "sqlite:///a")
    others = [hold_slot(tmp_path, 1, "sqlite:///a"), hold_slot(tmp_path, 0, "sqlite:///b")]
    os.close(lock)
    for taken in (hold_slot(tmp_path, 0, "sqlite:///a"), *others):
        os.close(taken)


def test_a_device_has_one_lock_whatever_its_name(tmp_path: Path) -> None:
    assert device_lock(tmp_path, "cuda:0") == tmp_path / "device-cuda_0.lock"
    assert device_lock(tmp_path, "../../etc").parent == tmp_path
