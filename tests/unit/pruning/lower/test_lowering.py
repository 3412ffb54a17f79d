"""Lowered networks compute what masked ones do, in PyTorch, ONNX Runtime and OpenVINO, with gathers and grouped
convolutions alone.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lut.measure.onnx_ops import bare_model
from lut.signature import OpSignature
from pruning.architectures import build
from pruning.export import num_macs, to_onnx
from pruning.lower.rewrite import kept_dense, lower
from pruning.masked import masked_copy
from pruning.modules import ChannelSelect
from pruning.network import Network
from pruning.trace import trace
from tests.builders import conv_bn, images, lively

torch.set_num_threads(1)
SHAPE = (5, 12, 11)
TOLERANCE = 1e-5


def random_mask(shape: torch.Size, tile: int, kept: int, seed: int = 0, uneven: bool = False) -> Tensor:
    """Block-rows of `tile` output channels that keep `kept` random input channels each, or up to that many."""
    rng = np.random.default_rng(seed)
    mask = torch.zeros(shape, dtype=torch.bool)
    for first in range(0, shape[0], tile):
        count = int(rng.integers(0, kept + 1)) if uneven and first else kept
        mask[first : first + tile, torch.from_numpy(rng.permutation(shape[1])[:count])] = True
    return mask


class Around(nn.Module):
    """A layer under test between a convolution and the head, with BatchNorm, ReLU and a second reader."""

    def __init__(self, layer: nn.Module, c_in: int, c_out: int, norm: bool = True) -> None:
        super().__init__()
        self.before, self.layer = conv_bn(SHAPE[0], c_in), layer
        self.norm = nn.BatchNorm2d(c_out) if norm else nn.Identity()
        self.head = nn.Linear(c_out + c_in, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.before(x))
        y = torch.relu(self.norm(self.layer(x)))
        logits: Tensor = self.head(torch.cat([y.mean((2, 3)), x.mean((2, 3))], 1))
        return logits


class Vectors(nn.Module):
    """Two linear layers on vectors."""

    def __init__(self, c_in: int, c_out: int, bias: bool = True) -> None:
        super().__init__()
        self.before, self.layer, self.head = nn.Linear(5 * 132, c_in), nn.Linear(c_in, c_out, bias), nn.Linear(c_out, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.layer(torch.relu(self.before(x.flatten(1))))))
        return logits


def run(path: Path, x: Tensor) -> dict[str, np.ndarray]:
    openvino = pytest.importorskip("openvino")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return {
        "onnxruntime": session.run(None, {session.get_inputs()[0].name: x.numpy()})[0],
        "openvino": compiled(x.numpy())[0],
    }


def assert_exact(dense: Network, masks: dict[str, Tensor], path: Path, batch: int = 2) -> Network:
    """The lowered network's logits are the masked one's everywhere."""
    lowered = lower(dense, masks)
    x = images(dense.input_shape, batch)
    with torch.no_grad():
        expected: Tensor = masked_copy(dense, masks).module(x)
        actual: Tensor = lowered.module(x)
    tolerance = TOLERANCE * max(1.0, float(expected.abs().max()))
    assert (expected - actual).abs().max() <= tolerance
    to_onnx(lowered, path, batch)
    for runtime, logits in run(path, x).items():
        assert np.abs(logits - expected.numpy()).max() <= tolerance, runtime
    for node in lowered.module.graph.nodes:
        if "shape" in node.meta:
            assert node.meta["shape"][0] == 1
    return lowered


CONVOLUTIONS = {
    "1x1": (nn.Conv2d(16, 32, 1), 8, 4),
    "1x1 without bias": (nn.Conv2d(16, 32, 1, bias=False), 8, 4),
    "strided 1x1": (nn.Conv2d(16, 32, 1, stride=2), 8, 4),
    "padded, strided 1x1": (nn.Conv2d(16, 32, 1, stride=2, padding=1), 8, 4),
    "3x3": (nn.Conv2d(16, 32, 3, padding=1), 16, 8),
    "3x3 in vector-wide blocks": (nn.Conv2d(64, 64, 3, padding=1), 32, 16),
    "strided 3x3": (nn.Conv2d(16, 32, 3, stride=(2, 1), padding=(1, 0)), 8, 5),
    "dilated 3x3": (nn.Conv2d(16, 24, 3, padding=2, dilation=2), 8, 3),
    "same padding": (nn.Conv2d(12, 24, (3, 2), padding="same"), 8, 3),
    "7x7": (nn.Conv2d(16, 32, 7, stride=2, padding=3), 16, 4),
    "odd channels": (nn.Conv2d(13, 21, 3, padding=1), 7, 5),
    "a smaller last block-row": (nn.Conv2d(13, 20, 3, padding=1), 8, 5),
    "a smaller last block-row, strided 1x1": (nn.Conv2d(13, 20, 1, stride=2, bias=False), 8, 5),
    "one block-row": (nn.Conv2d(16, 8, 3, padding=1), 8, 4),
    "one channel a list": (nn.Conv2d(16, 32, 3, padding=1), 8, 1),
}


@pytest.mark.parametrize("uneven", [False, True], ids=["equal lists", "unequal lists"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_lowered_convolution_computes_what_the_masked_one_does(name: str, uneven: bool, tmp_path: Path) -> None:
    conv, tile, kept = CONVOLUTIONS[name]
    dense = trace(lively(Around(conv, conv.in_channels, conv.out_channels), SHAPE), SHAPE)
    masks = {"layer": random_mask(conv.weight.shape, tile, kept, uneven=uneven)}
    assert kept_dense(dense, masks) == {}
    lowered = assert_exact(dense, masks, tmp_path / "model.onnx")
    assert num_macs(lowered) < num_macs(dense)
    kinds = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert kinds >= {"Conv"}
    assert kinds & {"Gather", "Slice"}
    standard = {
        "Conv",
        "Gather",
        "Slice",
        "Relu",
        "MaxPool",
        "Concat",
        "GlobalAveragePool",
        "Reshape",
        "Gemm",
        "Identity",
    }
    assert kinds <= standard | ({"BatchNormalization"} if "last" in name else set())


@pytest.mark.parametrize("tile", [8, 7, 24])
@pytest.mark.parametrize("bias", [True, False])
def test_a_lowered_linear_layer_on_vectors_computes_what_the_masked_one_does(
    tile: int, bias: bool, tmp_path: Path
) -> None:
    dense = trace(lively(Vectors(30, 24, bias), SHAPE), SHAPE)
    masks = {"layer": random_mask(torch.Size((24, 30)), tile, 9), "before": random_mask(torch.Size((30, 660)), 15, 80)}
    lowered = assert_exact(dense, masks, tmp_path / "model.onnx")
    assert num_macs(lowered) < num_macs(dense)


@pytest.mark.parametrize(
    ("arch", "size"), [("cifar/resnet20", 32), ("torchvision/mobilenet_v2", 32), ("torchvision/densenet121", 32)]
)
@pytest.mark.parametrize("share", [0.5, 0.125])
def test_whole_networks_stay_exact(arch: str, size: int, share: float, tmp_path: Path) -> None:
    shape = (3, size, size)
    dense = trace(lively(build(arch, 10), shape), shape)
    masks = {
        name: random_mask(m.weight.shape, 16, max(1, round(m.in_channels * share)), seed=len(name))
        for name, m in dense.module.named_modules()
        if isinstance(m, nn.Conv2d) and m.groups == 1 and m.in_channels > 3
    }
    assert_exact(dense, masks, tmp_path / "model.onnx", batch=1)


@settings(max_examples=25, deadline=None)
@given(
    c_in=st.integers(2, 20),
    c_out=st.integers(2, 40),
    tile=st.integers(2, 16),
    share=st.floats(0.1, 1.0),
    seed=st.integers(0, 99),
    uneven=st.booleans(),
)
def test_any_block_rows_stay_exact(c_in: int, c_out: int, tile: int, share: float, seed: int, uneven: bool) -> None:
    conv = nn.Conv2d(c_in, c_out, 3, padding=1)
    dense = trace(lively(Around(conv, c_in, c_out), SHAPE), SHAPE)
    masks = {"layer": random_mask(conv.weight.shape, tile, max(1, round(c_in * share)), seed, uneven)}
    x = images(SHAPE)
    with torch.no_grad():
        assert (masked_copy(dense, masks).module(x) - lower(dense, masks).module(x)).abs().max() <= 1e-4


class Deep(nn.Module):
    """Three convolutions in a row, a depthwise one between the last two."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.one, self.two = conv_bn(5, width), conv_bn(width, width, 1)
        self.depthwise, self.three = conv_bn(width, width, groups=width), conv_bn(width, width, 1)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.two(torch.relu(self.one(x))))
        x = torch.relu(self.three(torch.relu(self.depthwise(x))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def test_channels_that_no_list_names_are_not_computed_and_one_list_needs_no_gather(tmp_path: Path) -> None:
    dense = trace(lively(Deep(), SHAPE), SHAPE)
    shape = torch.Size((64, 64, 1, 1))
    masks = {"two.0": random_mask(shape, 64, 16), "three.0": random_mask(shape, 32, 8, seed=1)}
    lowered = assert_exact(dense, masks, tmp_path / "model.onnx")
    module = lowered.module
    assert module.get_submodule("one.0").out_channels == 16
    assert int(masks["three.0"].any(0).sum()) == 15
    assert module.get_submodule("two.0").out_channels == module.get_submodule("depthwise.0").groups == 16
    assert gathers(lowered) == ["three_0_gather"]
    assert not any(n.op_type == "BatchNormalization" for n in onnx.load(tmp_path / "model.onnx").graph.node)


def gathers(network: Network) -> list[str]:
    """Names of the gathers that are left."""
    modules = dict(network.module.named_modules())
    return [
        node.name for node in network.module.graph.nodes if isinstance(modules.get(str(node.target)), ChannelSelect)
    ]


@pytest.mark.parametrize(("lists", "inputs", "left"), [(1, 12, []), (2, 10, ["three_0_gather"])])
def test_what_a_depthwise_convolution_computes_is_a_multiple_of_four(
    lists: int, inputs: int, left: list[str], tmp_path: Path
) -> None:
    dense = trace(lively(Deep(), SHAPE), SHAPE)
    mask, tile, kept = torch.zeros(64, 64, 1, 1, dtype=torch.bool), 64 // lists, 10 // lists
    for row in range(lists):
        mask[row * tile : (row + 1) * tile, 5 + row * kept : 5 + (row + 1) * kept] = True
    lowered = assert_exact(dense, {"three.0": mask}, tmp_path / "model.onnx")
    assert lowered.module.get_submodule("depthwise.0").groups == 12
    assert lowered.module.get_submodule("three.0").in_channels == inputs
    assert gathers(lowered) == left


def test_lists_of_several_block_rows_need_no_gather_where_any_number_of_channels_suits(tmp_path: Path) -> None:
    dense = trace(lively(Deep(), SHAPE), SHAPE)
    mask = torch.zeros(64, 64, 1, 1, dtype=torch.bool)
    mask[:32, 5:10], mask[32:, 10:15] = True, True
    lowered = assert_exact(dense, {"two.0": mask}, tmp_path / "model.onnx")
    assert lowered.module.get_submodule("one.0").out_channels == lowered.module.get_submodule("two.0").in_channels == 10
    assert gathers(lowered) == []


def test_a_list_that_cannot_be_filled_reads_all_there_is(tmp_path: Path) -> None:
    dense = trace(lively(Deep(22), SHAPE), SHAPE)
    mask = random_mask(torch.Size((22, 22, 1, 1)), 22, 21)
    lowered = assert_exact(dense, {"two.0": mask}, tmp_path / "model.onnx")
    assert lowered.module.get_submodule("one.0").out_channels == lowered.module.get_submodule("two.0").in_channels == 22
    assert gathers(lowered) == []


@pytest.mark.parametrize(
    ("layer", "fields"),
    [
        (nn.Conv2d(32, 64, 3, padding=1), {"kernel": (3, 3), "padding": (1, 1)}),
        (nn.Conv2d(32, 64, 1, stride=2), {"stride": (2, 2)}),
        (nn.Conv2d(32, 64, 3, stride=2, dilation=2), {"kernel": (3, 3), "stride": (2, 2), "dilation": (2, 2)}),
        (nn.Linear(32, 64), {"kind": "linear", "height": 1, "width": 1}),
    ],
)
def test_the_operator_in_latency_tables_is_what_a_layer_is_lowered_to(
    layer: nn.Module, fields: dict[str, Any], tmp_path: Path
) -> None:
    given = {"kind": "conv", "height": 12, "width": 11, "pattern": "16x1@1/4"} | fields
    model = bare_model(OpSignature(**given), 32, 64, batch=1)
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    weight = layer.weight
    vector = isinstance(layer, nn.Linear)
    whole = (
        nn.Sequential(layer, nn.Identity()) if vector else nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    )
    shape = (32, 12, 11)
    before = [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if vector else [nn.Identity()]
    dense = trace(nn.Sequential(*before, *whole), shape)
    name = next(name for name, child in dense.module.named_modules() if isinstance(child, type(layer)))
    to_onnx(lower(dense, {name: random_mask(weight.shape, 16, 8)}), tmp_path / "model.onnx")
    emitted = forms(onnx.load(tmp_path / "model.onnx"))
    measured = forms(model)
    start = emitted.index(measured[0])
    assert emitted[start : start + len(measured)] == measured


def forms(model: onnx.ModelProto) -> list[tuple[str, dict[str, Any]]]:
    """Return operator and attributes of every node, those without effect left out."""
    idle = {
        "kernel_shape": None,
        "pads": [0, 0, 0, 0],
        "dilations": [1, 1],
        "strides": [1, 1],
        "group": 1,
        "ceil_mode": 0,
    }
    found = []
    for node in model.graph.node:
        values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        kept = {k: v for k, v in values.items() if k not in idle or (idle[k] is not None and v != idle[k])}
        found.append((node.op_type, kept))
    return found


class Twins(nn.Module):
    """Two convolutions that read one map, behind a selection of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Conv2d(5, 32, 1)
        self.left, self.right, self.head = nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.before(x)[:, ::2])
        logits: Tensor = self.head(self.left(x).mean((2, 3)) + self.right(x).mean((2, 3)))
        return logits


def test_layers_with_the_same_lists_share_a_gather(tmp_path: Path) -> None:
    dense = trace(lively(Twins(), SHAPE), SHAPE)
    lists = random_mask(torch.Size((16, 16, 1, 1)), 8, 6)
    masks = {"left": lists.expand(16, 16, 3, 3), "right": lists}
    lowered = assert_exact(dense, masks, tmp_path / "model.onnx")
    # Every second channel first, then the lists: one gather, and only what it reads is computed, up to a multiple of four.
    assert gathers(lowered) == ["left_gather"] and int(lists.any(0).sum()) == 9
    assert lowered.module.get_submodule("before").out_channels == 12


class Reused(nn.Module):
    """One convolution called twice and one with groups of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.twice, self.split = nn.Conv2d(5, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1, groups=2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.split(self.twice(self.twice(self.one(x)))).mean((2, 3)))
        return logits


def test_what_cannot_be_lowered_keeps_its_masked_weights_and_a_reason(tmp_path: Path) -> None:
    dense = trace(lively(Reused(), SHAPE), SHAPE)
    masks = {
        "one": torch.rand(8, 5, 1, 1, generator=torch.Generator().manual_seed(0)) > 0.5,
        "twice": random_mask(torch.Size((8, 8, 1, 1)), 4, 2),
        "split": random_mask(torch.Size((8, 4, 1, 1)), 4, 2),
        "head": torch.ones(3, 8, dtype=torch.bool),
    }
    assert set(kept_dense(dense, masks)) == set(masks)
    lowered = assert_exact(dense, masks, tmp_path / "model.onnx")
    assert [n.name for n in lowered.module.graph.nodes] == [n.name for n in dense.module.graph.nodes]


@pytest.mark.parametrize(
    "masks",
    [
        {"nowhere": torch.ones(1, dtype=torch.bool)},
        {"before.1": torch.ones(16, dtype=torch.bool)},
        {"layer": torch.ones(4, 4, 1, 1, dtype=torch.bool)},
        {"layer": torch.ones(8, dtype=torch.bool)},
    ],
)
def test_a_mask_that_fits_no_layer_is_refused(masks: dict[str, Tensor]) -> None:
    dense = trace(lively(Around(nn.Conv2d(16, 8, 1), 16, 8), SHAPE), SHAPE)
    with pytest.raises(ValueError, match="no convolution or linear layer"):
        lower(dense, masks)


def test_the_dense_network_is_not_touched() -> None:
    dense = trace(lively(Deep(), SHAPE), SHAPE)
    before = {name: tensor.clone() for name, tensor in dense.module.state_dict().items()}
    lower(dense, {"two.0": random_mask(torch.Size((64, 64, 1, 1)), 32, 16)})
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.module.state_dict().items())
