"""A job's target on this machine: the worker's own profile, or that of the runtime the job names."""

from typing import Any

import pytest

from lut.measure.runtime import runtime
from lut.profile import DeviceProfile
from workers.device import UnknownDevice, describe, profile_for

OWN = DeviceProfile(hardware="desk", runtime="onnxruntime", runtime_version="1", threads=1, batch=1)


def test_the_local_device_runs_onnx_runtime_by_default() -> None:
    assert describe("local") == runtime("onnxruntime").profile(1, 1)
    with pytest.raises(UnknownDevice, match="moon"):
        describe("moon")


@pytest.mark.parametrize("wanted", [{}, {"runtime": None}, {"runtime": "onnxruntime"}])
def test_a_job_that_names_no_other_runtime_has_the_workers_own(wanted: dict[str, Any]) -> None:
    profile, absent = profile_for(OWN, {"threads": 2, "batch": 8, **wanted})
    assert (profile.hardware, profile.runtime, profile.threads, profile.batch, absent) == (
        "desk",
        "onnxruntime",
        2,
        8,
        "",
    )


def test_a_runtime_that_is_here_has_a_profile_of_its_own() -> None:
    wanted = {"threads": 1, "batch": 2, "runtime": "torch_eager"}
    assert profile_for(OWN, wanted) == (runtime("torch_eager").profile(1, 2), "")


def test_a_runtime_that_is_not_is_said_to_be_absent_and_matches_no_table() -> None:
    profile, absent = profile_for(OWN, {"threads": 1, "batch": 1, "runtime": "abacus"})
    assert absent.startswith("abacus cannot run here: there is no runtime 'abacus'") and absent.endswith(".")
    assert (profile.runtime, profile.runtime_version) == ("abacus", "absent")
