"""A quick slice of `make faults`."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_few_faults_of_each_kind_of_process_break_no_promise() -> None:
    # A process of its own, as `make faults` is: it supervises, and its workers are its children.
    command = [sys.executable, "-m", "tests.faults", "--runs", "6", "--at-once", "2", "--seed", "1"]
    faults = ["--faults", "worker", "child", "zombie", "poison", "checkpoint"]
    done = subprocess.run([*command, *faults], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
