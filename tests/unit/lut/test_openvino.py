"""Whole networks in OpenVINO, timed in turns."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from lut.measure import openvino
from lut.measure.onnx_ops import bare_model, random_array
from lut.signature import OpSignature

MODEL = bare_model(OpSignature(kind="conv", height=6, width=6, activation="relu"), 8, 4, batch=1).SerializeToString()


def test_every_network_has_all_its_samples() -> None:
    pytest.importorskip("openvino")
    profile = openvino.local_profile(1, 1)
    assert profile.runtime == "openvino"
    timings = openvino.measure_models([MODEL, MODEL], profile, min_seconds=0.01, rounds=2, min_runs=3)
    assert [timing.num_samples >= 6 and timing.p50_ms > 0 for timing in timings] == [True, True]
    with pytest.raises(ValueError, match="this machine measures for"):
        openvino.measure_models([MODEL], replace(profile, hardware="another"))
    with pytest.raises(ValueError, match="cannot load"):
        openvino.measure_models([b"nothing"], profile)


def test_outputs_are_in_full_precision() -> None:
    pytest.importorskip("openvino")
    onnxruntime = pytest.importorskip("onnxruntime")
    x = random_array((1, 8, 6, 6))
    (actual,) = openvino.outputs(MODEL, 1, [x])
    (expected,) = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_an_absent_runtime_is_said_to_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(openvino.RuntimeAbsent, match="not installed"):
        openvino.local_profile(1, 1)
