import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lut.request import num_macs as signature_macs
from pruning.architectures import build
from pruning.export import num_macs
from pruning.groups import coupling_groups
from pruning.network import ChannelCount, Network, Operator
from pruning.operators import operators, unpriced
from pruning.slim import slim
from pruning.trace import trace
from tests.builders import (
    NETWORKS,
    SHAPE,
    Chain,
    Dense,
    Inverted,
    Padded,
    Residual,
    Shuffle,
    conv_bn,
    network,
    random_keep,
)


def _operators(model: nn.Module) -> dict[str, Operator]:
    traced = trace(model, SHAPE)
    return {operator.name: operator for operator in operators(traced, coupling_groups(traced))}


def test_convolution_batch_norm_and_activation_are_one_operator_with_bias() -> None:
    found = _operators(Chain((6, 8, 10)))
    assert list(found) == ["one_0", "two_0", "pool", "hidden", "head"]
    signature = found["two_0"].signature
    assert (signature.kind, signature.bias, signature.activation) == ("conv", True, "relu")
    assert (signature.height, signature.kernel, signature.stride, signature.padding) == (16, (3, 3), (2, 2), (1, 1))
    assert found["two_0"].c_in == ChannelCount(terms=(("one.0", 1),))
    assert found["two_0"].c_out == ChannelCount(terms=(("two.0", 1),))


def test_input_and_logits_are_fixed_counts() -> None:
    found = _operators(Chain((6, 8, 10), num_outputs=5))
    assert found["one_0"].c_in == ChannelCount(fixed=3)
    assert found["head"].c_out == ChannelCount(fixed=5)


def test_linear_layer_after_flatten_reads_every_position_of_a_channel() -> None:
    hidden = _operators(Chain((6, 8, 10)))["hidden"]
    assert hidden.c_in == ChannelCount(terms=(("two.0", 16),))
    assert (hidden.signature.kind, hidden.signature.height, hidden.signature.activation) == ("linear", 1, "relu")


def test_sum_belongs_to_the_convolution_that_only_it_reads() -> None:
    found = _operators(Residual())
    assert not any(operator.signature.kind == "add" for operator in found.values())
    assert found["a2_0"].signature.residual and found["a2_0"].signature.activation == "relu"
    # Both operands of the second sum qualify: its first one computes it.
    assert found["projection_0"].signature.residual and not found["b2_0"].signature.residual
    assert found["b2_0"].signature.activation == ""


def test_sum_with_a_padding_shortcut_belongs_to_the_gather() -> None:
    found = _operators(Padded(width=4))
    gather = found["pad"]
    assert (gather.signature.kind, gather.signature.residual, gather.signature.activation) == ("gather", True, "relu")
    assert (gather.signature.height, gather.signature.stride) == (16, (2, 2))
    assert (gather.c_in, gather.c_out) == (ChannelCount(terms=(("stem.0", 1),)), ChannelCount(terms=(("one.0", 1),)))
    assert not found["one_0"].signature.residual


def test_sum_that_no_convolution_computes_is_an_operator_of_its_own() -> None:
    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = functional.relu(self.conv(x))
            logits: Tensor = self.head(functional.relu(x + functional.max_pool2d(x, 3, 1, 1)).mean((2, 3)))
            return logits

    found = _operators(Summed())
    assert (found["add"].signature.kind, found["add"].signature.activation) == ("add", "relu")


def test_squeeze_and_excitation_is_priced_part_by_part() -> None:
    found = _operators(Inverted(hidden=10))
    kinds = [(operator.signature.kind, operator.signature.activation) for operator in found.values()]
    assert kinds == [
        ("conv", "hardswish"),
        ("conv", "hardswish"),
        ("depthwise", "silu"),
        ("global_pool", ""),
        ("conv", "relu"),
        ("conv", "hardsigmoid"),
        ("mul", ""),
        ("conv", ""),
        ("global_pool", ""),
        ("linear", ""),
    ]
    assert found["depthwise_0"].c_in == found["depthwise_0"].c_out == ChannelCount(terms=(("expand.0", 1),))
    assert not found["mul"].signature.residual and found["project_0"].signature.residual


def test_batch_norm_that_no_convolution_absorbs_and_concatenation_are_priced() -> None:
    found = _operators(Dense(width=6, growth=4))
    assert (found["norm2"].signature.kind, found["norm2"].signature.activation) == ("batch_norm", "relu")
    assert found["cat"].signature.kind == "concat"
    assert found["cat"].c_out == ChannelCount(terms=(("conv1", 1), ("stem", 1)))


def test_shuffle_is_a_gather_of_parts_of_groups() -> None:
    found = _operators(Shuffle(width=8))
    gathers = [operator for operator in found.values() if operator.signature.kind == "gather"]
    assert len(gathers) == 5
    assert all(operator.c_out.terms for operator in gathers)


@pytest.mark.parametrize("name", NETWORKS)
def test_channel_counts_at_any_widths_are_those_of_the_slimmed_network(name: str) -> None:
    dense = network(name)
    groups = coupling_groups(dense)
    keep = random_keep(groups, share=1.0)
    slimmed = slim(dense, groups, keep)
    widths = {group: len(units) for group, units in keep.items()}
    fixed = {operator.name: operator for operator in operators(slimmed, ())}
    full = {group.id: group.units for group in coupling_groups(slimmed)}
    for operator in operators(dense, groups):
        other = fixed[operator.name]
        assert operator.c_in.at(widths) == other.c_in.at(full)
        assert operator.c_out.at(widths) == other.c_out.at(full)


@pytest.mark.parametrize(("arch", "million"), [("cifar/resnet20", 40.55), ("torchvision/mobilenet_v2", 299.5)])
def test_multiply_accumulates_of_the_operators_are_those_of_the_network(arch: str, million: float) -> None:
    size = 32 if "cifar" in arch else 224
    traced = trace(build(arch, 10), (3, size, size))
    groups = coupling_groups(traced)
    widths = {group.id: group.units for group in groups}
    total = sum(
        signature_macs(operator.signature, operator.c_in.at(widths), operator.c_out.at(widths))
        for operator in operators(traced, groups)
        if operator.signature.kind in ("conv", "depthwise", "linear")
    )
    assert total == num_macs(traced)
    assert total / 1e6 == pytest.approx(million, rel=1e-3)


def test_what_no_table_can_price_is_named() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 2)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(torch.flatten(self.conv(x), 2).permute(0, 2, 1))
            x = x + self.attention(x, x, x, need_weights=False)[0]
            logits: Tensor = self.head(x.mean(1))
            return logits

    traced: Network = trace(Attends(), SHAPE)
    assert unpriced(traced, coupling_groups(traced)) == ("norm", "attention", "mean")


def test_grouped_convolution_keeps_its_number_of_groups_in_the_signature() -> None:
    model = nn.Sequential(
        conv_bn(3, 8), conv_bn(8, 8, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    )
    found = _operators(model)
    assert found["_1_0"].signature.groups == 2
    assert found["_1_0"].c_in == ChannelCount(terms=(("0.0", 2),))


def test_size_of_a_map_is_read_beside_its_channels_wherever_they_lie() -> None:
    class ChannelsLast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.wide, self.back = nn.Conv2d(3, 8, (4, 2), (4, 2)), nn.Linear(8, 12), nn.Linear(12, 8)
            self.head = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).permute(0, 2, 3, 1)
            x = x + self.back(functional.gelu(self.wide(x)))
            tokens = x.flatten(1, 2)
            logits: Tensor = self.head((tokens + functional.relu(tokens)).mean(1))
            return logits

    found = _operators(ChannelsLast())
    areas = {name: (found[name].signature.height, found[name].signature.width) for name in ("wide", "add", "add_1")}
    assert areas == {"wide": (4, 8), "add": (4, 8), "add_1": (32, 1)}
    assert found["add"].c_out == ChannelCount(terms=(("stem", 1),))
