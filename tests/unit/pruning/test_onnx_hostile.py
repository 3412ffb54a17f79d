import contextlib
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from pruning.onnx_builder import UnsupportedOnnx
from pruning.onnx_import import from_onnx
from tests.builders import outputs
from tests.unit.pruning.onnx_files import CONV, HEAD, POOLED, node, random, save


def test_names_from_the_file_never_reach_generated_code(tmp_path: Path) -> None:
    evil = '"];__import__("os").abort()#.weight'
    nodes = [node("Conv", ["x", evil], "map"), *POOLED]
    nodes[0].name = 'a")\nraise SystemExit #'
    imported = from_onnx(save(tmp_path / "m.onnx", nodes, {evil: CONV["conv.weight"]} | HEAD))
    assert ".abort(" not in imported.module.code and "raise" not in imported.module.code
    assert all(name.replace(".", "").isidentifier() for name in imported.module.state_dict())
    assert outputs(imported).shape == (2, 4)


def test_names_of_pytorch_methods_are_no_trouble(tmp_path: Path) -> None:
    nodes = [node("Conv", ["x", "train.weight", "conv.bias"], "c"), node("Relu", ["c"], "map"), *POOLED]
    nodes[1].name = "forward"
    assert from_onnx(save(tmp_path / "m.onnx", nodes, {"train.weight": CONV["conv.weight"]} | CONV | HEAD))


def test_unknown_operator_is_named_with_itsnode(tmp_path: Path) -> None:
    nodes = [node("Conv", ["x", "conv.weight"], "c"), node("Det", ["c"], "map"), *POOLED]
    with pytest.raises(UnsupportedOnnx, match="operator Det of node 'node_map'"):
        from_onnx(save(tmp_path / "m.onnx", nodes, CONV | HEAD))


def test_weights_in_other_files_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [node("Conv", ["x", "conv.weight"], "map"), *POOLED], CONV | HEAD)
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
    nodes = [node("Conv", ["x", "k"], "c"), node("Relu", ["c"], "map"), *POOLED]
    with TemporaryDirectory() as folder:
        path = save(Path(folder) / "m.onnx", nodes, {"k": random(5, 3, 1, 1)} | HEAD, batch=2)
        return path.read_bytes()


@pytest.mark.parametrize("shape", [["n", 3, "h", "w"], ["n", 3, 16], ["n", 3, 100_000, 16], ["n", 100_000, 4, 4]])
def test_inputs_of_free_or_absurd_size_are_refused(shape: list[int | str], tmp_path: Path) -> None:
    nodes = [node("Conv", ["x", "conv.weight"], "map"), *POOLED]
    with pytest.raises(UnsupportedOnnx, match="input"):
        from_onnx(save(tmp_path / "m.onnx", nodes, CONV | HEAD, shape=shape))


def test_tensors_that_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    huge = {"size": np.array([1 << 40]), "conv.bias": CONV["conv.bias"]}
    nodes = [node("ConstantOfShape", ["size"], "zeros"), node("Add", ["x", "zeros"], "map"), *POOLED]
    with pytest.raises(UnsupportedOnnx, match="too large"):
        from_onnx(save(tmp_path / "m.onnx", nodes, huge | HEAD))
    nodes = [node("Expand", ["x", "size"], "map"), *POOLED]
    with pytest.raises(UnsupportedOnnx, match="too large"):
        from_onnx(save(tmp_path / "m.onnx", nodes, {"size": np.array([1, 1 << 20, 3, 16, 16])} | HEAD, batch=1))


def test_control_flow_is_refused(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [node("Relu", ["x"], "r")], "b", [], [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)]
    )
    nodes = [node("If", ["yes"], "map", then_branch=branch, else_branch=branch), *POOLED]
    with pytest.raises(UnsupportedOnnx, match="control flow"):
        from_onnx(save(tmp_path / "m.onnx", nodes, {"yes": np.array(True)} | HEAD))


def test_network_written_for_one_batch_size_is_refused(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "conv.weight"], "c"),
        node("GlobalAveragePool", ["c"], "p"),
        node("Reshape", ["p", "size"], "flat"),
        node("MatMul", ["mix", "flat"], "map"),
        node("Gemm", ["map", "head.weight", "head.bias"], "y", transB=1),
    ]
    weights = CONV | HEAD | {"size": np.array([2, 5]), "mix": random(2, 2)}
    with pytest.raises(UnsupportedOnnx):
        from_onnx(save(tmp_path / "m.onnx", nodes, weights, batch=2))
