"""What is timed is what the runtime executes inside a network, and computes the same numbers."""

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

from lut.measure.isolate import SHARED_WEIGHT_BYTES, isolate, repeated
from lut.measure.sessions import session_options, verbatim_session
from lut.profile import DeviceProfile
from lut.request import output_size
from lut.signature import KINDS, OpSignature

PROFILE = DeviceProfile(hardware="any", runtime="onnxruntime", runtime_version="any", threads=1, batch=1)
CONV = OpSignature(kind="conv", height=8, width=8, kernel=(3, 3), padding=(1, 1), activation="relu")
RESIDUAL = OpSignature(kind="conv", height=8, width=8, kernel=(3, 3), padding=(1, 1), activation="relu", residual=True)


def op_types(signature: OpSignature, c_in: int, c_out: int) -> list[str]:
    return [node.op_type for node in isolate(signature, c_in, c_out, 1, session_options(PROFILE)).graph.node]


def session_of_copies(signature: OpSignature, c_in: int, c_out: int, copies: int) -> onnxruntime.InferenceSession:
    operator = isolate(signature, c_in, c_out, 1, session_options(PROFILE))
    for tensor in (one for one in operator.graph.initializer if len(one.raw_data) >= SHARED_WEIGHT_BYTES):
        tensor.raw_data = np.full(len(tensor.raw_data) // 4, 0.25, np.float32).tobytes()
    return verbatim_session(repeated(operator, copies).SerializeToString(), PROFILE)


@pytest.mark.parametrize("signature", [CONV, RESIDUAL])
def test_activation_and_residual_add_are_fused_into_the_convolution(signature: OpSignature) -> None:
    types = op_types(signature, 64, 64)
    assert len(types) == 1
    assert types[0].endswith("Conv")


def test_neighbours_are_cut_off() -> None:
    operator = isolate(CONV, 48, 32, 1, session_options(PROFILE))
    assert len(operator.graph.input) == 1
    assert [dim.dim_value for dim in operator.graph.input[0].type.tensor_type.shape.dim] == [1, 48, 8, 8]
    assert operator.weight_bytes == 4 * 48 * 32 * 9


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_runs_isolated_in_copies_of_the_right_shape(kind: str) -> None:
    height, width = 8, 8
    signature = OpSignature(
        kind=kind, height=height, width=width, activation="hardswish" if kind == "activation" else ""
    )
    c_in, c_out = (32, 64) if kind in ("conv", "linear", "gather") else (32, 32)
    session = session_of_copies(signature, c_in, c_out, 3)
    feeds = {value.name: np.ones(value.shape, np.float32) for value in session.get_inputs()}
    outputs = session.run(None, feeds)
    assert len(outputs) == 3
    assert {output.size for output in outputs} == {c_out * int(np.prod(output_size(signature)))}


def test_every_copy_has_weights_of_its_own_which_differ() -> None:
    operator = isolate(CONV, 64, 64, 1, session_options(PROFILE))
    own = [t.raw_data for t in repeated(operator, 3).graph.initializer if len(t.raw_data) >= SHARED_WEIGHT_BYTES]
    assert len(set(own)) == len(own) == 3
    assert {len(data) for data in own} == {operator.weight_bytes}


@pytest.mark.parametrize("huge_pages", [False, True])
def test_an_operator_has_an_arena_of_its_own_unless_the_process_keeps_its_memory(huge_pages: bool) -> None:
    model = repeated(isolate(CONV, 16, 16, 1, session_options(PROFILE)), 1).SerializeToString()
    session = verbatim_session(model, replace(PROFILE, huge_pages=huge_pages))
    assert session.get_session_options().enable_cpu_mem_arena is not huge_pages
    assert session_options(replace(PROFILE, huge_pages=huge_pages)).enable_cpu_mem_arena, "as networks have it"


def test_the_isolated_operator_computes_a_convolution() -> None:
    """Weights and inputs all equal, one tap: every position of a channel has the same value in any layout."""
    pointwise = replace(CONV, kernel=(1, 1), padding=(0, 0), bias=False)
    session = session_of_copies(pointwise, 64, 64, 2)
    feeds = {value.name: np.ones(value.shape, np.float32) for value in session.get_inputs()}
    for output in session.run(None, feeds):
        assert output.size == 64 * 8 * 8
        np.testing.assert_allclose(output, 64 * 0.25, rtol=1e-5)


def test_channel_counts_the_fast_kernel_refuses_carry_their_layout_changes() -> None:
    """Odd counts may cost more nodes than even ones, never fewer: what the runtime adds belongs to the operator."""
    assert len(op_types(CONV, 33, 64)) >= len(op_types(CONV, 64, 64))


def test_operators_on_vectors_stand_alone() -> None:
    linear = OpSignature(kind="linear", height=1, width=1, activation="relu")
    operator = isolate(linear, 64, 10, 1, session_options(PROFILE))
    assert [value.name for value in operator.graph.input] == ["x"]
