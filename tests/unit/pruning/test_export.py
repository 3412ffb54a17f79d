from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import VisionTransformer

from pruning.architectures import build
from pruning.export import (
    NotExportable,
    num_macs,
    num_parameters,
    onnx_error,
    onnx_max_abs_error,
    to_onnx,
    to_safetensors,
)
from pruning.groups import coupling_groups
from pruning.slim import mask, slim
from pruning.trace import trace
from tests.builders import NETWORKS, SHAPE, Chain, lively, network, outputs, random_keep

TOLERANCE = 1e-4


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_runtime_gives_the_logits_of_dense_and_slimmed_networks(name: str, tmp_path: Path) -> None:
    dense = network(name)
    groups = coupling_groups(dense)
    for i, one in enumerate((dense, slim(dense, groups, random_keep(groups)))):
        path = tmp_path / f"{i}.onnx"
        to_onnx(one, path, batch=2)
        assert onnx_max_abs_error(one, path) <= TOLERANCE


@pytest.mark.parametrize(
    ("arch", "size"),
    [
        ("cifar/resnet20", 32),
        ("torchvision/mobilenet_v3_small", 64),
        ("torchvision/shufflenet_v2_x0_5", 64),
        ("torchvision/squeezenet1_1", 64),
        ("torchvision/densenet121", 64),
        ("torchvision/convnext_tiny", 32),
    ],
)
def test_onnx_runtime_agrees_on_networks_people_use(arch: str, size: int, tmp_path: Path) -> None:
    shape = (3, size, size)
    traced = trace(lively(build(arch, 10), shape), shape)
    to_onnx(traced, tmp_path / "model.onnx", batch=1)
    assert onnx_max_abs_error(traced, tmp_path / "model.onnx") <= TOLERANCE


def test_vision_transformer_is_exported_with_its_slimmed_layers(tmp_path: Path) -> None:
    model = VisionTransformer(16, 4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=24, num_classes=5)
    dense = trace(lively(model), SHAPE)
    groups = coupling_groups(dense)
    assert [group.units for group in groups if not group.frozen] == [24, 24]
    slimmed = slim(dense, groups, random_keep(groups, share=1.0))
    to_onnx(slimmed, tmp_path / "model.onnx", batch=2)
    assert onnx_max_abs_error(slimmed, tmp_path / "model.onnx") <= TOLERANCE
    assert (outputs(mask(dense, groups, random_keep(groups, share=1.0))) - outputs(slimmed)).abs().max() <= TOLERANCE


def test_batch_norm_is_folded_and_the_batch_is_fixed(tmp_path: Path) -> None:
    to_onnx(network("Residual"), tmp_path / "model.onnx", batch=3)
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [3, *SHAPE]
    assert model.opset_import[0].version >= 17


def test_export_is_deterministic(tmp_path: Path) -> None:
    for name in ("a", "b"):
        to_onnx(network("Shuffle"), tmp_path / name, batch=1)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_export_leaves_no_temporary_files(tmp_path: Path) -> None:
    to_onnx(network("Chain"), tmp_path / "model.onnx")
    to_safetensors(network("Chain"), tmp_path / "model.safetensors")
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.safetensors"}


class _Wrapped(nn.Module):
    """Something between two convolutions."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.one, self.middle, self.two, self.head = (
            nn.Conv2d(3, 8, 3),
            middle,
            nn.Conv2d(8, 6, 3, padding="same"),
            nn.Linear(6, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.two(self.middle(self.one(x))).mean((2, 3)))
        return logits


class _Functions(nn.Module):
    """Functions the exporter knows but no network above uses."""

    def forward(self, x: Tensor) -> Tensor:
        one, two = torch.split(x, 4, 1)
        x = torch.cat([two.clamp(-1, 0.5) / 2.0, 1.0 - one], 1)
        x = functional.pad(x, (1, 0, 2, 1), value=0.3)[:, :, 1:, ::2]
        parts = x.unsqueeze(2).unbind(2)
        return parts[0].transpose(2, 3).squeeze().reshape(x.shape[0], 8, x.shape[3], x.shape[2]) * x.sum(
            dim=(2, 3), keepdim=True
        )


@pytest.mark.parametrize(
    "middle",
    [
        nn.ELU(0.7), nn.LeakyReLU(0.2), nn.Tanh(), nn.Mish(), nn.Softplus(), nn.GELU(), nn.GELU("tanh"), nn.Hardtanh(-2, 3), nn.PReLU(8),
        nn.Softmax(1), nn.BatchNorm2d(8, affine=False), nn.AdaptiveAvgPool2d((5, 4)), nn.AdaptiveMaxPool2d(7), nn.AvgPool2d(3, 2, 1),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True), _Functions(),
        # Outside our own vocabulary: goes through PyTorch's exporter.
        nn.GroupNorm(2, 8),
    ],
    ids=lambda middle: type(middle).__name__,
)  # fmt: skip
def test_every_operation_is_exported_as_it_is(middle: nn.Module, tmp_path: Path) -> None:
    traced = trace(lively(_Wrapped(middle)), SHAPE)
    to_onnx(traced, tmp_path / "model.onnx", batch=2)
    assert onnx_max_abs_error(traced, tmp_path / "model.onnx") <= TOLERANCE


def test_rounding_of_large_logits_is_no_error_and_another_network_is_one(tmp_path: Path) -> None:
    loud, other = network("Chain", seed=0), network("Chain", seed=1)
    for one in (loud, other):
        with torch.no_grad():
            one.module.get_submodule("head").weight.mul_(1e5)  # type: ignore[operator,union-attr]
    to_onnx(loud, tmp_path / "model.onnx")
    error = onnx_error(loud, tmp_path / "model.onnx")
    assert error.largest_logit > 1e4 and error.relative == error.max_abs / error.largest_logit <= 1e-5
    assert onnx_error(other, tmp_path / "model.onnx").relative > 0.01


def test_differences_of_small_logits_count_as_they_are(tmp_path: Path) -> None:
    quiet = network("Chain")
    with torch.no_grad():
        quiet.module.get_submodule("head").weight.mul_(1e-3)  # type: ignore[operator,union-attr]
        quiet.module.get_submodule("head").bias.zero_()  # type: ignore[operator,union-attr]
    to_onnx(quiet, tmp_path / "model.onnx")
    error = onnx_error(quiet, tmp_path / "model.onnx")
    assert error.largest_logit < 1 and error.relative == error.max_abs


def test_network_that_nothing_can_write_is_refused_with_the_operator(tmp_path: Path) -> None:
    with pytest.raises(NotExportable, match="AdaptiveMaxPool2d"):
        to_onnx(trace(lively(_Wrapped(nn.AdaptiveMaxPool2d(5))), SHAPE), tmp_path / "model.onnx")


def test_error_of_another_network_is_seen(tmp_path: Path) -> None:
    to_onnx(network("Chain", seed=0), tmp_path / "model.onnx")
    assert onnx_max_abs_error(network("Chain", seed=1), tmp_path / "model.onnx") > 0.01


def test_safetensors_hold_every_parameter_by_name(tmp_path: Path) -> None:
    dense = network("Residual")
    to_safetensors(dense, tmp_path / "model.safetensors")
    other = network("Residual", seed=1)
    other.module.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(outputs(other), outputs(dense))


def test_sizes_are_what_a_calculator_says() -> None:
    traced = trace(Chain((6, 8, 10), num_outputs=5), SHAPE)
    weights = 27 * 6 + 54 * 8 + 128 * 10 + 10 * 5
    assert num_parameters(traced) == weights + 2 * (6 + 8) + 10 + 5
    assert num_macs(traced) == 27 * 6 * 256 + 54 * 8 * 64 + 128 * 10 + 10 * 5
