import contextlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from pruning.architectures import build
from pruning.export import onnx_max_abs_error, to_onnx
from pruning.groups import coupling_groups
from pruning.onnx_builder import UnsupportedOnnx
from pruning.onnx_import import from_onnx
from pruning.slim import mask, slice_head, slim
from pruning.trace import trace
from tests.builders import NETWORKS, SHAPE, images, lively, network, outputs, random_keep

TOLERANCE = 1e-4
RNG = np.random.default_rng(0)


def _weights(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def _node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), [output], name=f"node_{output}", **attributes)


def _save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    *,
    batch: int | str = "n",
    opset: int = 17,
    **change: Any,
) -> Path:
    """Write a model x [batch, 3, 16, 16] -> y."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, change.get("shape", [batch, *SHAPE]))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", "outputs"])
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(list(nodes), "test", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path)
    return path


HEAD = {"head.weight": _weights(4, 5), "head.bias": _weights(4)}
POOLED = [
    _node("GlobalAveragePool", ["map"], "pooled"),
    _node("Flatten", ["pooled"], "flat"),
    _node("Gemm", ["flat", "head.weight", "head.bias"], "y", transB=1),
]
CONV = {"conv.weight": _weights(5, 3, 3, 3), "conv.bias": _weights(5)}


@pytest.mark.parametrize("name", NETWORKS)
def test_round_trip_through_onnx_keeps_logits_and_groups(name: str, tmp_path: Path) -> None:
    dense = network(name)
    to_onnx(dense, tmp_path / "model.onnx")
    imported = from_onnx(tmp_path / "model.onnx")
    torch.testing.assert_close(outputs(imported, 3), outputs(dense, 3), rtol=1e-4, atol=TOLERANCE)
    assert [group.units for group in coupling_groups(imported)] == [group.units for group in coupling_groups(dense)]


@pytest.mark.parametrize("name", ["Residual", "Inverted", "Shuffle", "Dense", "Grouped", "Padded"])
def test_files_of_pytorchs_own_exporter_are_read(name: str, tmp_path: Path) -> None:
    model = lively(NETWORKS[name]())
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (images(batch=1),), path, dynamo=True, verbose=False, external_data=False)
    imported = from_onnx(path)
    assert onnx_max_abs_error(imported, path) <= TOLERANCE
    groups = coupling_groups(imported)
    assert [group.units for group in groups] == [group.units for group in coupling_groups(trace(model, SHAPE))]
    keep = random_keep(groups)
    assert (outputs(mask(imported, groups, keep)) - outputs(slim(imported, groups, keep))).abs().max() <= TOLERANCE


@pytest.mark.parametrize("arch", ["cifar/resnet20", "torchvision/mobilenet_v3_small", "torchvision/squeezenet1_1"])
def test_networks_people_use_are_read(arch: str, tmp_path: Path) -> None:
    shape = (3, 64, 64)
    to_onnx(trace(lively(build(arch, 10), shape), shape), tmp_path / "model.onnx", batch=4)
    imported = from_onnx(tmp_path / "model.onnx")
    assert onnx_max_abs_error(imported, tmp_path / "model.onnx") <= TOLERANCE
    sliced = slice_head(imported, [9, 2])
    torch.testing.assert_close(outputs(sliced), outputs(imported)[:, [9, 2]], rtol=1e-4, atol=1e-5)


def test_imported_network_can_be_trained(tmp_path: Path) -> None:
    to_onnx(network("Inverted"), tmp_path / "model.onnx")
    module = from_onnx(tmp_path / "model.onnx").module.train()
    module(images()).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_batch_norm_that_is_not_folded_is_a_batch_norm(tmp_path: Path) -> None:
    norm = {name: np.abs(_weights(5)) + 0.5 for name in ("scale", "shift", "mean", "var")}
    nodes = [
        _node("Conv", ["x", "conv.weight", "conv.bias"], "c", pads=[1, 1, 1, 1]),
        _node("BatchNormalization", ["c", *norm], "b", epsilon=1e-3),
        _node("Relu", ["b"], "map"),
        *POOLED,
    ]
    path = _save(tmp_path / "m.onnx", nodes, CONV | norm | HEAD)
    imported = from_onnx(path)
    assert any(isinstance(module, nn.BatchNorm2d) for module in imported.module.modules())
    assert onnx_max_abs_error(imported, path) <= TOLERANCE


def _spelled(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray] | None = None, **options: Any) -> Any:
    first = _node("Conv", ["x", "conv.weight", "conv.bias"], "c")
    return [first, *nodes, *POOLED], CONV | HEAD | (weights or {}), options


def _scalar(value: float) -> np.ndarray:
    return np.array(value, dtype=np.float32)


CASES: dict[str, Any] = {
    "hard_sigmoid_of_other_slope": _spelled([_node("HardSigmoid", ["c"], "map", alpha=0.2)]),
    "silu": _spelled([_node("Sigmoid", ["c"], "s"), _node("Mul", ["c", "s"], "map")]),
    "clip_on_one_side": _spelled([_node("Clip", ["c", "low"], "map")], {"low": _scalar(-0.1)}),
    "clip_by_attributes": _spelled([_node("Clip", ["c"], "map", min=0.0, max=6.0)], opset=9),
    "erf_gelu": _spelled(
        [
            _node("Div", ["c", "root"], "d"),
            _node("Erf", ["d"], "e"),
            _node("Add", ["e", "one"], "a"),
            _node("Mul", ["c", "a"], "m"),
            _node("Mul", ["m", "half"], "map"),
        ],
        {"root": _scalar(2**0.5), "one": _scalar(1), "half": _scalar(0.5)},
    ),
    "per_channel_scale_and_shift": _spelled(
        [_node("Mul", ["c", "k"], "s"), _node("Sub", ["s", "t"], "map")],
        {"k": _weights(5, 1, 1), "t": _weights(1, 5, 1, 1)},
    ),
    "constant_minus_map": _spelled([_node("Sub", ["t", "c"], "map")], {"t": _weights(5, 1, 1)}),
    "map_of_constants": _spelled([_node("Add", ["c", "t"], "map")], {"t": _weights(5, 14, 14)}),
    "uneven_padding": _spelled(
        [_node("MaxPool", ["c"], "map", kernel_shape=[2, 2], strides=[2, 2], pads=[0, 1, 1, 0])]
    ),
    "same_padding": _spelled(
        [_node("AveragePool", ["c"], "map", kernel_shape=[3, 3], strides=[1, 1], auto_pad="SAME_UPPER")]
    ),
    "prelu": _spelled([_node("PRelu", ["c", "slope"], "map")], {"slope": _weights(5, 1, 1)}),
    "pad_of_channels": _spelled(
        [_node("Pad", ["c", "pads"], "p"), _node("Conv", ["p", "k"], "map")],
        {"pads": np.array([0, 1, 0, 0, 0, 2, 0, 0]), "k": _weights(5, 8, 1, 1)},
    ),
    "split_and_slice": _spelled(
        [
            helper.make_node("Split", ["c", "sizes"], ["left", "right"], axis=1),
            _node("Slice", ["left", "zero", "two", "one"], "cut"),
            _node("Concat", ["right", "cut"], "map", axis=1),
        ],
        {"sizes": np.array([2, 3]), "zero": np.array([0]), "two": np.array([2]), "one": np.array([1])},
    ),
    "shuffle_by_sizes_of_the_map": _spelled(
        [
            _node("Shape", ["c"], "size"),
            _node("Gather", ["size", "first"], "n"),
            _node("Unsqueeze", ["n", "axis"], "n1"),
            _node("Concat", ["n1", "rest"], "target", axis=0),
            _node("Reshape", ["c", "target"], "r"),
            _node("Transpose", ["r"], "t", perm=[0, 2, 1, 3, 4]),
            _node("Reshape", ["t", "size"], "map"),
        ],
        {"first": np.array(0), "axis": np.array([0]), "rest": np.array([5, 1, 14, 14])},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_spelling_of_other_exporters_gives_onnx_runtimes_logits(case: str, tmp_path: Path) -> None:
    nodes, weights, options = CASES[case]
    path = _save(tmp_path / "m.onnx", nodes, weights, **options)
    imported = from_onnx(path)
    assert onnx_max_abs_error(imported, path) <= TOLERANCE
    assert outputs(imported, batch=5).shape == (5, 4)


def test_spelled_activations_become_the_activations_they_are(tmp_path: Path) -> None:
    for case, kind in (("silu", nn.SiLU), ("erf_gelu", nn.GELU), ("clip_by_attributes", nn.ReLU6)):
        nodes, weights, options = CASES[case]
        imported = from_onnx(_save(tmp_path / "m.onnx", nodes, weights, **options))
        assert any(isinstance(module, kind) for module in imported.module.modules())
        assert [group.frozen for group in coupling_groups(imported)] == [""]


def test_matrix_product_and_sum_are_one_linear_layer(tmp_path: Path) -> None:
    weights = CONV | {"w": _weights(5, 4), "b": _weights(4)}
    nodes = [
        _node("Conv", ["x", "conv.weight", "conv.bias"], "c"),
        _node("ReduceMean", ["c"], "flat", axes=[2, 3], keepdims=0),
        _node("MatMul", ["flat", "w"], "m"),
        _node("Add", ["b", "m"], "y"),
    ]
    path = _save(tmp_path / "m.onnx", nodes, weights)
    imported = from_onnx(path)
    assert onnx_max_abs_error(imported, path) <= TOLERANCE
    assert slice_head(imported, [2]).num_outputs == 1


def test_final_softmax_is_dropped(tmp_path: Path) -> None:
    nodes = [_node("Conv", ["x", "conv.weight", "conv.bias"], "map"), *POOLED[:2]]
    nodes += [_node("Gemm", ["flat", "head.weight", "head.bias"], "z", transB=1), _node("Softmax", ["z"], "y")]
    path = _save(tmp_path / "m.onnx", nodes, CONV | HEAD)
    (expected,) = onnxruntime.InferenceSession(path).run(None, {"x": images().numpy()})
    np.testing.assert_allclose(torch.softmax(outputs(from_onnx(path)), 1).numpy(), expected, atol=1e-5)


def test_names_from_the_file_never_reach_generated_code(tmp_path: Path) -> None:
    evil = '"];__import__("os").abort()#.weight'
    nodes = [_node("Conv", ["x", evil], "map"), *POOLED]
    nodes[0].name = 'a")\nraise SystemExit #'
    imported = from_onnx(_save(tmp_path / "m.onnx", nodes, {evil: CONV["conv.weight"]} | HEAD))
    assert ".abort(" not in imported.module.code and "raise" not in imported.module.code
    assert all(name.replace(".", "").isidentifier() for name in imported.module.state_dict())
    assert outputs(imported).shape == (2, 4)


def test_names_of_pytorch_methods_are_no_trouble(tmp_path: Path) -> None:
    nodes = [_node("Conv", ["x", "train.weight", "conv.bias"], "c"), _node("Relu", ["c"], "map"), *POOLED]
    nodes[1].name = "forward"
    assert from_onnx(_save(tmp_path / "m.onnx", nodes, {"train.weight": CONV["conv.weight"]} | CONV | HEAD))


def test_unknown_operator_is_named_with_its_node(tmp_path: Path) -> None:
    nodes = [_node("Conv", ["x", "conv.weight"], "c"), _node("Det", ["c"], "map"), *POOLED]
    with pytest.raises(UnsupportedOnnx, match="operator Det of node 'node_map'"):
        from_onnx(_save(tmp_path / "m.onnx", nodes, CONV | HEAD))


def test_weights_in_other_files_are_refused(tmp_path: Path) -> None:
    path = _save(tmp_path / "m.onnx", [_node("Conv", ["x", "conv.weight"], "map"), *POOLED], CONV | HEAD)
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedOnnx, match="another file"):
        from_onnx(path)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07" * 50, b"\xff" * 1000])
def test_files_that_are_not_onnx_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(UnsupportedOnnx):
        from_onnx(tmp_path / "m.onnx")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_damaged_files_are_read_or_refused_and_nothing_else(damage: list[tuple[float, int]]) -> None:
    content = bytearray(_damageable())
    for where, value in damage:
        content[int(where * (len(content) - 1))] = value
    with TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        path.write_bytes(content)
        with contextlib.suppress(UnsupportedOnnx):
            from_onnx(path)


@cache
def _damageable() -> bytes:
    nodes = [_node("Conv", ["x", "k"], "c"), _node("Relu", ["c"], "map"), *POOLED]
    with TemporaryDirectory() as folder:
        path = _save(Path(folder) / "m.onnx", nodes, {"k": _weights(5, 3, 1, 1)} | HEAD, batch=2)
        return path.read_bytes()


@pytest.mark.parametrize("shape", [["n", 3, "h", "w"], ["n", 3, 16], ["n", 3, 100_000, 16], ["n", 100_000, 4, 4]])
def test_inputs_of_free_or_absurd_size_are_refused(shape: list[int | str], tmp_path: Path) -> None:
    nodes = [_node("Conv", ["x", "conv.weight"], "map"), *POOLED]
    with pytest.raises(UnsupportedOnnx, match="input"):
        from_onnx(_save(tmp_path / "m.onnx", nodes, CONV | HEAD, shape=shape))


def test_tensors_that_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    huge = {"size": np.array([1 << 40]), "conv.bias": CONV["conv.bias"]}
    nodes = [_node("ConstantOfShape", ["size"], "zeros"), _node("Add", ["x", "zeros"], "map"), *POOLED]
    with pytest.raises(UnsupportedOnnx, match="too large"):
        from_onnx(_save(tmp_path / "m.onnx", nodes, huge | HEAD))
    nodes = [_node("Expand", ["x", "size"], "map"), *POOLED]
    with pytest.raises(UnsupportedOnnx, match="too large"):
        from_onnx(_save(tmp_path / "m.onnx", nodes, {"size": np.array([1, 1 << 20, 3, 16, 16])} | HEAD, batch=1))


def test_control_flow_is_refused(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [_node("Relu", ["x"], "r")], "b", [], [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)]
    )
    nodes = [_node("If", ["yes"], "map", then_branch=branch, else_branch=branch), *POOLED]
    with pytest.raises(UnsupportedOnnx, match="control flow"):
        from_onnx(_save(tmp_path / "m.onnx", nodes, {"yes": np.array(True)} | HEAD))


def test_network_written_for_one_batch_size_is_refused(tmp_path: Path) -> None:
    nodes = [
        _node("Conv", ["x", "conv.weight"], "c"),
        _node("GlobalAveragePool", ["c"], "p"),
        _node("Reshape", ["p", "size"], "flat"),
        _node("MatMul", ["mix", "flat"], "map"),
        _node("Gemm", ["map", "head.weight", "head.bias"], "y", transB=1),
    ]
    weights = CONV | HEAD | {"size": np.array([2, 5]), "mix": _weights(2, 2)}
    with pytest.raises(UnsupportedOnnx):
        from_onnx(_save(tmp_path / "m.onnx", nodes, weights, batch=2))
