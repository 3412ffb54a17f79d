"""What stays dense is named layer by layer, with its work."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import VisionTransformer

from pruning.architectures import build
from pruning.dense import DenseLayer, dense_layers
from pruning.export import num_macs
from pruning.groups import coupling_groups
from pruning.operators import operators
from pruning.trace import trace
from tests.builders import NETWORKS, SHAPE, network


def layers(model: nn.Module, shape: tuple[int, int, int] = SHAPE) -> dict[str, DenseLayer]:
    traced = trace(model, shape)
    return {layer.module: layer for layer in dense_layers(traced, coupling_groups(traced))}


class Mixed(nn.Module):
    """Two convolutions that group normalisation freezes, one that nothing does, one that hears the image and says logits."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(i, 8, 3, padding=1) for i in (3, 8, 8))
        self.norm, self.other_norm = nn.GroupNorm(2, 8), nn.GroupNorm(4, 8)
        self.head, self.side = nn.Linear(8, 5), nn.Linear(768, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.other_norm(self.two(self.norm(self.one(x))))
        logits: Tensor = self.head(functional.relu(self.three(y)).mean((2, 3)))
        return logits + self.side(x.flatten(1))  # type: ignore[no-any-return]


def test_a_layer_between_frozen_channels_is_named_with_the_operator_that_freezes_them() -> None:
    found = layers(Mixed())
    assert {name for name, layer in found.items() if layer.priced} == {"one", "two", "side", "add"}
    assert "GroupNorm `norm`" in found["one"].reason and "GroupNorm `other_norm`" in found["two"].reason
    assert "images" in found["side"].reason
    assert found["one"].num_macs == 27 * 8 * 256 and found["two"].num_macs == 72 * 8 * 256


def test_what_has_no_kind_in_a_table_is_named_too() -> None:
    found = layers(Mixed())
    assert {name for name, layer in found.items() if not layer.priced} == {"norm", "other_norm"}
    assert found["norm"].reason == "no latency table has a kind for GroupNorm `norm`"
    assert found["norm"].num_macs == 8 * 256


def test_work_of_attention_is_counted() -> None:
    model = VisionTransformer(16, 4, 2, 2, 8, 16, num_classes=5)
    traced = trace(model, SHAPE)
    groups = coupling_groups(traced)
    found = dense_layers(traced, groups)
    attention = [layer for layer in found if layer.module.endswith("self_attention")]
    tokens, width = 17, 8
    assert [layer.num_macs for layer in attention] == 2 * [4 * tokens * width**2 + 2 * tokens**2 * width]
    hidden = {group.id for group in groups if not group.frozen}
    assert hidden == {f"encoder.layers.encoder_layer_{i}.mlp.0" for i in range(2)}
    weighted = sum(layer.num_macs for layer in found if layer.module == "conv_proj" or layer in attention)
    assert num_macs(traced) == weighted + tokens * 2 * 2 * width * 16 + width * 5


def test_nothing_of_a_network_without_such_operators_stays_dense() -> None:
    for name in NETWORKS:
        traced = network(name)
        groups = coupling_groups(traced)
        changing = {op.name for op in operators(traced, groups) if op.c_in.terms or op.c_out.terms}
        assert not changing & {layer.name for layer in dense_layers(traced, groups)}
    assert not layers(build("cifar/resnet20", 10), (3, 32, 32))


def test_layers_stay_in_graph_order() -> None:
    torch.manual_seed(0)
    assert list(layers(Mixed())) == ["one", "norm", "two", "other_norm", "side", "add"]
