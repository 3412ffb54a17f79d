"""Operators as PyTorch modules compute what their ONNX graphs compute."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from lut.measure.onnx_ops import bare_model
from lut.measure.semi_structured import SemiStructured
from lut.measure.torch_ops import operands, operator_module
from lut.signature import KINDS, OpSignature

CONV = OpSignature(kind="conv", height=8, width=8, kernel=(3, 3), padding=(1, 1))
ACTIVATIONS = (
    "relu", "relu6", "hardswish", "hardsigmoid", "silu", "sigmoid", "gelu", "leaky_relu", "elu", "tanh", "softmax",
)  # fmt: skip
SIGNATURES = [
    *(OpSignature(kind=kind, height=8, width=8, activation="relu" if kind == "activation" else "") for kind in KINDS),
    *(OpSignature(kind="activation", height=8, width=8, activation=name) for name in ACTIVATIONS),
    replace(CONV, stride=(2, 2), dilation=(2, 2), activation="relu"),
    replace(CONV, groups=2, bias=False),
    replace(CONV, residual=True, activation="relu"),
    replace(CONV, pattern="4x1@1/2", activation="relu"),
    replace(CONV, kernel=(1, 1), padding=(0, 0), stride=(2, 2), pattern="4x1@1/2"),
    OpSignature(kind="max_pool", height=8, width=8, kernel=(3, 3), padding=(1, 1), stride=(2, 2)),
    OpSignature(kind="avg_pool", height=8, width=8, kernel=(3, 3), padding=(1, 1), stride=(2, 2)),
    OpSignature(kind="linear", height=1, width=1),
    OpSignature(kind="linear", height=1, width=1, pattern="4x1@1/2"),
    OpSignature(kind="batch_norm", height=1, width=1),
    OpSignature(kind="mul", height=8, width=8, residual=True),
    OpSignature(kind="gather", height=8, width=8, stride=(2, 2)),
    OpSignature(kind="gather", height=8, width=8, residual=True),
]


def copy_weights(module: nn.Module, model: onnx.ModelProto) -> None:
    """Give the module the weights and lists of the graph."""
    tensors = [onnx.numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer]
    floats = iter(tensor for tensor in tensors if tensor.dtype == np.float32 and tensor.size > 1)
    for child in module.modules():
        for parameter in child.parameters(recurse=False):
            value = torch.from_numpy(next(floats))
            # MatMul takes the weight the other way round.
            turned = value.ndim == 2 and value.shape != parameter.shape
            parameter.data = value.T.contiguous() if turned else value.reshape(parameter.shape)
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            child.running_mean, child.running_var = torch.from_numpy(next(floats)), torch.from_numpy(next(floats))


@pytest.mark.parametrize("signature", SIGNATURES, ids=str)
def test_the_module_computes_the_graph(signature: OpSignature) -> None:
    c_in, c_out = (8, 12) if signature.kind in ("conv", "linear") else (8, 8)
    model = bare_model(signature, c_in, c_out, batch=2)
    module = operator_module(signature, c_in, c_out)
    copy_weights(module, model)
    inputs = operands(signature, c_in, c_out, 2)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, dict(zip("xz", (x.numpy() for x in inputs), strict=False)))
    np.testing.assert_allclose(module(*inputs).numpy(), expected, atol=1e-4)


def test_wider_and_narrower_gathers_have_the_shape_of_the_graph() -> None:
    gather = OpSignature(kind="gather", height=4, width=4)
    for c_in, c_out in ((8, 5), (5, 8)):
        assert operator_module(gather, c_in, c_out)(*operands(gather, c_in, c_out, 1)).shape == (1, c_out, 4, 4)


def test_copies_have_weights_of_their_own() -> None:
    one, two = (next(operator_module(CONV, 8, 8, offset).parameters()) for offset in (0, 104729))
    assert one.data_ptr() != two.data_ptr() and not torch.equal(one, two)


def test_two_of_four_is_semi_structured_where_the_widths_allow_and_dense_elsewhere() -> None:
    sparse = OpSignature(kind="conv", height=4, width=4, pattern="2:4", activation="relu")

    def layers(c_in: int, c_out: int) -> int:
        module = operator_module(sparse, c_in, c_out)
        assert module(*operands(sparse, c_in, c_out, 1)).shape == (1, c_out, 4, 4)
        return sum(isinstance(layer, SemiStructured) for layer in module.modules())

    assert layers(64, 32) == 1
    assert layers(48, 32) == 0


@pytest.mark.parametrize(
    ("signature", "c_in", "c_out", "match"),
    [
        (replace(CONV, groups=3), 8, 8, "groups"),
        (replace(CONV, activation="loud"), 8, 8, "unknown activation"),
        (OpSignature(kind="add", height=4, width=4), 8, 4, "keeps its channels"),
    ],
)
def test_what_describes_no_operator_is_refused(signature: OpSignature, c_in: int, c_out: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        operator_module(signature, c_in, c_out)
