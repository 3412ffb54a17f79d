"""OpenVINO computes in full precision, and what hides in its graphs is kept from hiding."""

import numpy as np
import pytest

from lut.measure.arrays import random_array
from lut.measure.onnx_ops import bare_model
from lut.measure.openvino import OpenVino
from lut.measure.tables import measure_points
from lut.signature import OpSignature

pytest.importorskip("openvino")
RUNTIME = OpenVino()
CONV = OpSignature(kind="conv", height=6, width=6, activation="relu")
MODEL = bare_model(CONV, 8, 4, batch=1).SerializeToString()


def test_outputs_are_in_full_precision() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    x = random_array((1, 8, 6, 6))
    actual = RUNTIME.outputs(MODEL, RUNTIME.profile(1, 1), x)
    (expected,) = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_another_batch_or_no_network_is_refused() -> None:
    with pytest.raises(ValueError, match="profile has batch 2"):
        RUNTIME.network_run(MODEL, RUNTIME.profile(1, 2))
    with pytest.raises(ValueError, match="cannot load"):
        RUNTIME.network_run(b"nothing", RUNTIME.profile(1, 1))


def test_equal_copies_are_not_computed_once() -> None:
    """A pool has no weights: on one input its copies would be one; a map of 64 times the size takes far longer."""
    small, large = (OpSignature(kind="max_pool", height=s, width=s, kernel=(3, 3), padding=(1, 1)) for s in (8, 64))
    table = measure_points(RUNTIME.profile(1, 1), [(small, 32, 32), (large, 32, 32)])
    assert table.latency_us(large, 32, 32) > 4 * table.latency_us(small, 32, 32)
    assert table.latency_us(large, 32, 32) > 3
