from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper
from torch import nn

from pruning.architectures import build
from pruning.export import onnx_max_abs_error, to_onnx
from pruning.groups import coupling_groups
from pruning.onnx_import import from_onnx
from pruning.slim import mask, slice_head, slim
from pruning.trace import trace
from tests.builders import NETWORKS, SHAPE, images, lively, network, outputs, random_keep
from tests.unit.pruning.onnx_files import CONV, HEAD, POOLED, node, random, save

TOLERANCE = 1e-4


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
    norm = {name: np.abs(random(5)) + 0.5 for name in ("scale", "shift", "mean", "var")}
    nodes = [
        node("Conv", ["x", "conv.weight", "conv.bias"], "c", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", *norm], "b", epsilon=1e-3),
        node("Relu", ["b"], "map"),
        *POOLED,
    ]
    path = save(tmp_path / "m.onnx", nodes, CONV | norm | HEAD)
    imported = from_onnx(path)
    assert any(isinstance(module, nn.BatchNorm2d) for module in imported.module.modules())
    assert onnx_max_abs_error(imported, path) <= TOLERANCE


def _spelled(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray] | None = None, **options: Any) -> Any:
    first = node("Conv", ["x", "conv.weight", "conv.bias"], "c")
    return [first, *nodes, *POOLED], CONV | HEAD | (weights or {}), options


def _scalar(value: float) -> np.ndarray:
    return np.array(value, dtype=np.float32)


CASES: dict[str, Any] = {
    "hard_sigmoid_of_other_slope": _spelled([node("HardSigmoid", ["c"], "map", alpha=0.2)]),
    "silu": _spelled([node("Sigmoid", ["c"], "s"), node("Mul", ["c", "s"], "map")]),
    "clip_on_one_side": _spelled([node("Clip", ["c", "low"], "map")], {"low": _scalar(-0.1)}),
    "clip_by_attributes": _spelled([node("Clip", ["c"], "map", min=0.0, max=6.0)], opset=9),
    "erf_gelu": _spelled(
        [
            node("Div", ["c", "root"], "d"),
            node("Erf", ["d"], "e"),
            node("Add", ["e", "one"], "a"),
            node("Mul", ["c", "a"], "m"),
            node("Mul", ["m", "half"], "map"),
        ],
        {"root": _scalar(2**0.5), "one": _scalar(1), "half": _scalar(0.5)},
    ),
    "per_channel_scale_and_shift": _spelled(
        [node("Mul", ["c", "k"], "s"), node("Sub", ["s", "t"], "map")],
        {"k": random(5, 1, 1), "t": random(1, 5, 1, 1)},
    ),
    "constant_minus_map": _spelled([node("Sub", ["t", "c"], "map")], {"t": random(5, 1, 1)}),
    "map_of_constants": _spelled([node("Add", ["c", "t"], "map")], {"t": random(5, 14, 14)}),
    "uneven_padding": _spelled([node("MaxPool", ["c"], "map", kernel_shape=[2, 2], strides=[2, 2], pads=[0, 1, 1, 0])]),
    "same_padding": _spelled(
        [node("AveragePool", ["c"], "map", kernel_shape=[3, 3], strides=[1, 1], auto_pad="SAME_UPPER")]
    ),
    "prelu": _spelled([node("PRelu", ["c", "slope"], "map")], {"slope": random(5, 1, 1)}),
    "pad_of_channels": _spelled(
        [node("Pad", ["c", "pads"], "p"), node("Conv", ["p", "k"], "map")],
        {"pads": np.array([0, 1, 0, 0, 0, 2, 0, 0]), "k": random(5, 8, 1, 1)},
    ),
    "split_and_slice": _spelled(
        [
            helper.make_node("Split", ["c", "sizes"], ["left", "right"], axis=1),
            node("Slice", ["left", "zero", "two", "one"], "cut"),
            node("Concat", ["right", "cut"], "map", axis=1),
        ],
        {"sizes": np.array([2, 3]), "zero": np.array([0]), "two": np.array([2]), "one": np.array([1])},
    ),
    "shuffle_by_sizes_of_the_map": _spelled(
        [
            node("Shape", ["c"], "size"),
            node("Gather", ["size", "first"], "n"),
            node("Unsqueeze", ["n", "axis"], "n1"),
            node("Concat", ["n1", "rest"], "target", axis=0),
            node("Reshape", ["c", "target"], "r"),
            node("Transpose", ["r"], "t", perm=[0, 2, 1, 3, 4]),
            node("Reshape", ["t", "size"], "map"),
        ],
        {"first": np.array(0), "axis": np.array([0]), "rest": np.array([5, 1, 14, 14])},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_spelling_of_other_exporters_gives_onnx_runtimes_logits(case: str, tmp_path: Path) -> None:
    nodes, weights, options = CASES[case]
    path = save(tmp_path / "m.onnx", nodes, weights, **options)
    imported = from_onnx(path)
    assert onnx_max_abs_error(imported, path) <= TOLERANCE
    assert outputs(imported, batch=5).shape == (5, 4)


def test_spelled_activations_become_the_activations_they_are(tmp_path: Path) -> None:
    for case, kind in (("silu", nn.SiLU), ("erf_gelu", nn.GELU), ("clip_by_attributes", nn.ReLU6)):
        nodes, weights, options = CASES[case]
        imported = from_onnx(save(tmp_path / "m.onnx", nodes, weights, **options))
        assert any(isinstance(module, kind) for module in imported.module.modules())
        assert [group.frozen for group in coupling_groups(imported)] == [""]


def test_matrix_product_and_sum_are_one_linear_layer(tmp_path: Path) -> None:
    weights = CONV | {"w": random(5, 4), "b": random(4)}
    nodes = [
        node("Conv", ["x", "conv.weight", "conv.bias"], "c"),
        node("ReduceMean", ["c"], "flat", axes=[2, 3], keepdims=0),
        node("MatMul", ["flat", "w"], "m"),
        node("Add", ["b", "m"], "y"),
    ]
    path = save(tmp_path / "m.onnx", nodes, weights)
    imported = from_onnx(path)
    assert onnx_max_abs_error(imported, path) <= TOLERANCE
    assert slice_head(imported, [2]).num_outputs == 1


def test_final_softmax_is_dropped(tmp_path: Path) -> None:
    nodes = [node("Conv", ["x", "conv.weight", "conv.bias"], "map"), *POOLED[:2]]
    nodes += [node("Gemm", ["flat", "head.weight", "head.bias"], "z", transB=1), node("Softmax", ["z"], "y")]
    path = save(tmp_path / "m.onnx", nodes, CONV | HEAD)
    (expected,) = onnxruntime.InferenceSession(path).run(None, {"x": images().numpy()})
    np.testing.assert_allclose(torch.softmax(outputs(from_onnx(path)), 1).numpy(), expected, atol=1e-5)
