"""The one-operator graphs compute what their signatures say, checked against NumPy."""

import math
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

from lut.measure.arrays import random_array, random_pool
from lut.measure.onnx_ops import bare_model, model_in_context, operand_shapes
from lut.request import output_size
from lut.signature import KINDS, OpSignature

BATCH = 2


def run(signature: OpSignature, c_in: int, c_out: int) -> tuple[np.ndarray, list[np.ndarray], dict[str, np.ndarray]]:
    """Return the operator's output, its operands and its constants."""
    model = bare_model(signature, c_in, c_out, BATCH)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    shapes = operand_shapes(signature, c_in, c_out)
    operands = [random_array((BATCH, *shape), offset=i) for i, shape in enumerate(shapes)]
    names = [value.name for value in session.get_inputs()]
    (output,) = session.run(None, dict(zip(names, operands, strict=True)))
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return output, operands, weights


def signature(kind: str, **fields: object) -> OpSignature:
    made = OpSignature(kind=kind, height=6, width=5)
    return replace(made, **fields)


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hardswish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "hardsigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "tanh": np.tanh,
    "softmax": lambda x: np.exp(x) / np.exp(x).sum(axis=1, keepdims=True),
}


def convolve(x: np.ndarray, weight: np.ndarray, s: OpSignature, groups: int) -> np.ndarray:
    """The definition of a convolution, tap by tap."""
    padded = np.pad(x, ((0, 0), (0, 0), (s.padding[0],) * 2, (s.padding[1],) * 2))
    height, width = output_size(s)
    c_out, fan_in = weight.shape[:2]
    result = np.zeros((x.shape[0], c_out, height, width))
    for o in range(c_out):
        first = o // (c_out // groups) * fan_in
        for r in range(s.kernel[0]):
            for c in range(s.kernel[1]):
                top, left = r * s.dilation[0], c * s.dilation[1]
                rows = slice(top, top + (height - 1) * s.stride[0] + 1, s.stride[0])
                columns = slice(left, left + (width - 1) * s.stride[1] + 1, s.stride[1])
                taps = padded[:, first : first + fan_in, rows, columns]
                result[:, o] += np.einsum("nihw,i->nhw", taps, weight[o, :, r, c])
    return result


@pytest.mark.parametrize(
    ("s", "c_in", "c_out"),
    [
        (signature("conv", kernel=(3, 3), padding=(1, 1)), 3, 5),
        (signature("conv", kernel=(3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), 4, 3),
        (signature("conv", kernel=(3, 3), groups=2, bias=False), 4, 6),
        (signature("depthwise", kernel=(3, 3), padding=(1, 1)), 4, 4),
    ],
)
def test_convolutions_are_the_textbook_ones(s: OpSignature, c_in: int, c_out: int) -> None:
    output, (x,), weights = run(s, c_in, c_out)
    expected = convolve(x, weights["w0"], s, c_in if s.kind == "depthwise" else s.groups)
    if s.bias:
        expected += weights["w1"][:, None, None]
    np.testing.assert_allclose(output, expected, atol=1e-4)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_a_fused_activation_follows_the_convolution_and_the_residual_add(activation: str) -> None:
    s = signature("conv", residual=True, activation=activation)
    output, (x, z), weights = run(s, 4, 3)
    plain = convolve(x, weights["w0"], s, 1) + weights["w1"][:, None, None] + z
    np.testing.assert_allclose(output, ACTIVATIONS[activation](plain), atol=1e-4)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_an_activation_of_its_own_is_the_same_function(activation: str) -> None:
    output, (x,), _ = run(signature("activation", activation=activation), 3, 3)
    np.testing.assert_allclose(output, ACTIVATIONS[activation](x), atol=1e-5)


def test_linears_work_on_vectors_and_on_the_last_axis_of_maps() -> None:
    output, (x,), weights = run(signature("linear", height=1, width=1, activation="relu"), 4, 3)
    np.testing.assert_allclose(output, np.maximum(x @ weights["w0"].T + weights["w1"], 0), atol=1e-5)
    output, (x,), weights = run(signature("linear"), 4, 3)
    np.testing.assert_allclose(output, x @ weights["w0"] + weights["w1"], atol=1e-5)


def test_elementwise_operators_and_pools_are_what_they_are_called() -> None:
    output, (x, z), _ = run(signature("add", activation="relu"), 3, 3)
    np.testing.assert_allclose(output, np.maximum(x + z, 0), atol=1e-6)
    output, (x, z), _ = run(signature("mul"), 3, 3)
    assert z.shape == (BATCH, 3, 1, 1)
    np.testing.assert_allclose(output, x * z, atol=1e-6)
    output, (x, z), _ = run(signature("mul", residual=True), 3, 3)
    np.testing.assert_allclose(output, x * z, atol=1e-6)
    output, (x,), _ = run(signature("global_pool"), 3, 3)
    np.testing.assert_allclose(output[..., 0, 0], x.mean(axis=(2, 3)), atol=1e-6)
    output, (x, z), _ = run(signature("concat"), 5, 5)
    np.testing.assert_array_equal(output, np.concatenate([x, z], axis=1))
    output, (x,), _ = run(signature("avg_pool", kernel=(6, 5)), 3, 3)
    np.testing.assert_allclose(output[..., 0, 0], x.mean(axis=(2, 3)), atol=1e-6)
    output, (x,), weights = run(signature("batch_norm"), 3, 3)
    gamma, beta, mean = (weights[name][:, None, None] for name in ("w0", "w1", "w2"))
    np.testing.assert_allclose(output, gamma * (x - mean) + beta, rtol=1e-3, atol=1e-4)


def test_a_gather_subsamples_picks_and_pads() -> None:
    output, (x,), _ = run(signature("gather"), 6, 3)
    np.testing.assert_array_equal(output, x[:, [0, 2, 4]])
    output, (x, z), _ = run(signature("gather", stride=(2, 2), residual=True, activation="relu"), 3, 5)
    padded = np.pad(x[:, :, ::2, ::2], ((0, 0), (0, 2), (0, 0), (0, 0)))
    np.testing.assert_allclose(output, np.maximum(padded + z, 0), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_the_output_shape_it_should_alone_and_between_neighbours(kind: str) -> None:
    s = signature(kind, activation="relu" if kind == "activation" else "")
    c_in, c_out = (8, 12) if kind in ("conv", "linear", "gather") else (8, 8)
    output, _, _ = run(s, c_in, c_out)
    height, width = output_size(s)
    assert output.shape == ((BATCH, height, width, c_out) if kind == "linear" else (BATCH, c_out, height, width))
    model = model_in_context(s, c_in, c_out, BATCH)
    onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("s", "c_in", "c_out"),
    [
        (signature("fold"), 4, 4),
        (signature("conv"), 0, 4),
        (signature("add"), 4, 8),
        (signature("conv", groups=3), 4, 6),
        (signature("conv", activation="swoosh"), 4, 4),
    ],
)
def test_what_describes_no_operator_is_refused(s: OpSignature, c_in: int, c_out: int) -> None:
    with pytest.raises(ValueError, match=r"kind|channel|activation"):
        bare_model(s, c_in, c_out, BATCH)


def test_random_numbers_are_reproducible_and_never_denormal() -> None:
    assert np.abs(random_pool()).min() >= 1e-3
    np.testing.assert_array_equal(random_array((3, 4), offset=5), random_array((3, 4), offset=5))
    assert random_array((5000, 1000)).shape == (5000, 1000)
