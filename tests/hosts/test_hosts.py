"""A quick slice of `make hosts`."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXIT_NO_LAB = 77


def test_the_job_of_a_host_that_is_cut_off_moves_on_and_its_zombie_is_refused() -> None:
    # A process of its own: it moves to another network, where threads of other tests would not follow.
    command = [sys.executable, "-m", "tests.hosts", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150)
    if done.returncode == EXIT_NO_LAB:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
