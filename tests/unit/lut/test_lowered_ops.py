"""Entries of lowered layers: their graphs are the gather and grouped convolution they stand for."""

import numpy as np
import onnx
import onnxruntime
import pytest

from lut.measure.arrays import random_array
from lut.measure.isolate import isolate, repeated
from lut.measure.onnx_ops import bare_model, operand_shapes
from lut.measure.sessions import session_options, verbatim_session
from lut.profile import DeviceProfile
from lut.request import num_macs, num_weights, output_size
from lut.signature import OpSignature
from lut.table import Entry, LatencyTable

PROFILE = DeviceProfile(hardware="any", runtime="onnxruntime", runtime_version="any", threads=1, batch=1)
QUARTER = "16x1@1/4"


def conv(**fields: object) -> OpSignature:
    given: dict[str, object] = {
        "kind": "conv",
        "height": 8,
        "width": 8,
        "kernel": (3, 3),
        "padding": (1, 1),
        "pattern": QUARTER,
    }
    return OpSignature(**(given | fields))  # type: ignore[arg-type]  # fmt: skip


LINEAR = OpSignature(kind="linear", height=1, width=1, pattern=QUARTER)
STRIDED = conv(kernel=(1, 1), padding=(0, 0), stride=(2, 2))


def masked_dense(model: onnx.ModelProto, c_in: int, kernel: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the dense weight [C_out, C_in, kh, kw] and bias that the lists and the grouped weight amount to."""
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    (node,) = [node for node in model.graph.node if node.op_type == "Conv"]
    (gather,) = [node for node in model.graph.node if node.op_type == "Gather"]
    groups = next(a.i for a in node.attribute if a.name == "group")
    weight, lists = constants[node.input[1]], constants[gather.input[1]].reshape(groups, -1)
    dense = np.zeros((len(weight), c_in, *kernel), np.float32)
    for out, row in enumerate(weight):
        dense[out, lists[out // (len(weight) // groups)]] = row
    return dense, constants[node.input[2]]


@pytest.mark.parametrize("signature", [conv(), conv(stride=(2, 2)), STRIDED, conv(pattern="2:4v+16x8@1/2"), LINEAR])
def test_the_operator_computes_the_masked_layer(signature: OpSignature) -> None:
    c_in, c_out = 32, 48
    model = bare_model(signature, c_in, c_out, batch=2)
    weight, bias = masked_dense(model, c_in, signature.kernel)
    assert (weight != 0).sum() == num_weights(signature, c_in, c_out) == weight.size // 4
    x = random_array((2, *operand_shapes(signature, c_in, c_out)[0]))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, {"x": x})
    if signature.kind == "linear":
        expected = x @ weight[:, :, 0, 0].T + bias
    else:
        import torch

        tensors = [torch.from_numpy(a) for a in (x, weight, bias)]
        expected = torch.nn.functional.conv2d(*tensors, stride=signature.stride, padding=signature.padding).numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_the_graph_is_a_gather_and_a_convolution_with_one_group_a_block_row() -> None:
    model = bare_model(conv(), 32, 48, batch=1)
    assert [node.op_type for node in model.graph.node] == ["Gather", "Conv"]
    assert [node.op_type for node in bare_model(STRIDED, 32, 48, 1).graph.node] == ["MaxPool", "Gather", "Conv"]
    assert [node.op_type for node in bare_model(LINEAR, 32, 48, 1).graph.node] == [
        "Gather",
        "Reshape",
        "Conv",
        "Reshape",
    ]
    whole = bare_model(conv(pattern="64x64@1/4"), 64, 64, 1)  # one tile: nothing to leave out
    assert [node.op_type for node in whole.graph.node] == ["Conv"]


def test_work_and_weights_shrink_with_the_density_of_the_fitted_pattern() -> None:
    dense = conv(pattern="")
    assert num_macs(conv(), 32, 48) * 4 == num_macs(dense, 32, 48)
    assert num_weights(conv(), 32, 48) * 4 == num_weights(dense, 32, 48)
    assert num_macs(conv(), 10, 48) == 48 * 9 * 64 * 3  # a quarter of ten channels is three
    assert num_macs(LINEAR, 32, 48) == num_weights(LINEAR, 32, 48) == 8 * 48


@pytest.mark.parametrize(
    "signature", [conv(activation="relu"), conv(residual=True, activation="relu"), STRIDED, LINEAR]
)
@pytest.mark.parametrize("widths", [(64, 64), (40, 24)])
def test_copies_run_isolated_with_weights_of_their_own(signature: OpSignature, widths: tuple[int, int]) -> None:
    operator = isolate(signature, *widths, 1, session_options(PROFILE))
    types = [node.op_type for node in operator.graph.node]
    assert "Gather" in types
    assert not {"Relu", "Add"} & set(types)
    session = verbatim_session(repeated(operator, 3).SerializeToString(), PROFILE)
    outputs = session.run(None, {value.name: np.ones(value.shape, np.float32) for value in session.get_inputs()})
    height, width = output_size(signature)
    assert [output.size >= widths[1] * height * width for output in outputs] == [True] * 3


def test_a_table_holds_lowered_layers_beside_dense_ones_and_reads_old_files() -> None:
    entry = Entry(p50_us=5.0, p90_us=6.0, num_samples=9)
    table = LatencyTable(profile=PROFILE, entries={conv(): {(32, 48): entry}, conv(pattern=""): {(32, 48): entry}})
    data = table.to_json()
    assert LatencyTable.from_json(data) == table
    old = table.to_json()
    old["entries"] = [row for row in old["entries"] if not row["signature"].pop("pattern")]
    assert list(LatencyTable.from_json(old).entries) == [conv(pattern="")]


@pytest.mark.parametrize("pattern", ["dense", "16x16/tap@1/2", "2:4+16x16/tap@1/2", "sixteen", 5])
def test_a_table_with_a_pattern_that_nothing_runs_is_refused(pattern: object) -> None:
    entry = Entry(p50_us=5.0, p90_us=6.0, num_samples=9)
    data = LatencyTable(profile=PROFILE, entries={conv(): {(32, 48): entry}}).to_json()
    data["entries"][0]["signature"]["pattern"] = pattern
    with pytest.raises(ValueError, match=r"pattern|malformed"):
        LatencyTable.from_json(data)


@pytest.mark.parametrize(
    "fields", [{"groups": 2}, {"kind": "depthwise"}, {"kind": "add"}, {"kind": "linear", "height": 4}]
)
def test_other_operators_have_no_pattern(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="never run"):
        conv(**fields)


def test_element_wise_patterns_are_dense_weights_that_do_less_and_no_standard_operators() -> None:
    sparse = conv(pattern="2:4")
    assert num_macs(sparse, 32, 48) * 2 == num_macs(conv(pattern=""), 32, 48)
    assert num_weights(sparse, 32, 48) == num_weights(conv(pattern=""), 32, 48)
    with pytest.raises(ValueError, match="standard operators"):
        bare_model(sparse, 32, 48, 1)


def test_shared_runs_that_do_not_divide_the_input_describe_no_operator() -> None:
    with pytest.raises(ValueError, match="whole runs"):
        bare_model(conv(pattern="2:4v+16x8@1/2"), 30, 48, batch=1)
