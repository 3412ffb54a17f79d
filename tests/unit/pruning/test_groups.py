import copy
import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pruning.architectures import build
from pruning.groups import Coupling, coupling_groups, coupling_of
from pruning.network import ChannelCount, CouplingGroup, Network
from pruning.trace import trace
from tests.builders import SHAPE, Chain, Dense, Grouped, Inverted, Padded, Residual, Shuffle, conv_bn


def _groups(model: nn.Module) -> dict[str, CouplingGroup]:
    return {group.id: group for group in coupling_groups(trace(model, SHAPE))}


def _slots(group: CouplingGroup) -> set[tuple[str, str]]:
    return {(slot.module, slot.axis) for slot in group.slots}


def test_chain_has_a_group_for_each_hidden_layer_and_none_for_input_and_head() -> None:
    groups = _groups(Chain((6, 8, 10)))
    assert {name: group.units for name, group in groups.items()} == {"one.0": 6, "two.0": 8, "hidden": 10}
    assert _slots(groups["one.0"]) == {("one.0", "out"), ("one.1", "channel"), ("two.0", "in")}


def test_linear_layer_after_flatten_reads_all_positions_of_a_channel() -> None:
    (slot,) = [slot for slot in _groups(Chain((6, 8, 10)))["two.0"].slots if slot.module == "hidden"]
    assert slot.axis == "in" and slot.index.shape == (8, 16)
    assert slot.index[3].tolist() == list(range(48, 64))


def test_residual_sum_couples_everything_that_meets_in_it() -> None:
    groups = _groups(Residual(width=6))
    assert set(groups) == {"stem.0", "a1.0", "projection.0", "b1.0"}
    assert {("stem.0", "out"), ("a2.0", "out"), ("a1.0", "in"), ("b1.0", "in"), ("projection.0", "in")} <= _slots(
        groups["stem.0"]
    )
    assert {("projection.0", "out"), ("b2.0", "out"), ("head", "in")} <= _slots(groups["projection.0"])


def test_squeeze_and_excitation_and_depthwise_follow_the_expansion() -> None:
    group = _groups(Inverted(hidden=10))["expand.0"]
    assert group.units == 10
    assert {("depthwise.0", "channel"), ("squeeze", "in"), ("excite", "out"), ("project.0", "in")} <= _slots(group)


def test_padding_shortcut_leaves_the_stages_apart() -> None:
    groups = _groups(Padded(width=4))
    assert {name: group.units for name, group in groups.items()} == {"stem.0": 4, "one.0": 8, "two.0": 10}


def test_concatenation_puts_channels_side_by_side() -> None:
    groups = _groups(Dense(width=6, growth=4))
    assert {name: group.units for name, group in groups.items()} == {"stem": 6, "conv1": 4, "conv2": 4}
    (norm,) = [slot for slot in groups["conv1"].slots if slot.module == "norm3"]
    assert norm.axis == "channel" and norm.index[:, 0].tolist() == [6, 7, 8, 9]


def test_grouped_convolution_keeps_the_same_channels_in_every_convolution_group() -> None:
    groups = _groups(Grouped())
    assert {name: group.units for name, group in groups.items()} == {"one.0": 4, "two.0": 6}
    (slot,) = [slot for slot in groups["one.0"].slots if (slot.module, slot.axis) == ("two.0", "in")]
    assert slot.index.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_depthwise_multiplier_gives_every_unit_two_channels() -> None:
    (slot,) = [slot for slot in _groups(Grouped())["two.0"].slots if slot.module == "three"]
    assert slot.axis == "channel" and slot.index[1].tolist() == [2, 3, 14, 15]


def test_units_that_reach_different_layers_form_different_groups() -> None:
    groups = _groups(Shuffle(width=8))
    stem = [group for name, group in groups.items() if name.split(":")[0] == "stem.0"]
    assert sorted(group.units for group in stem) == [2, 2, 4]


def test_group_ids_are_stable_between_runs() -> None:
    network = trace(Shuffle(), SHAPE)
    assert [g.id for g in coupling_groups(network)] == [g.id for g in coupling_groups(network)]


@pytest.mark.parametrize(
    ("arch", "size", "count"),
    [
        ("cifar/resnet20", 32, 12),
        ("cifar/resnet20-b", 32, 12),
        ("torchvision/resnet18", 64, 12),
        ("torchvision/resnet50", 64, 37),
        ("torchvision/mobilenet_v2", 64, 25),
    ],
)
def test_known_networks_have_their_known_number_of_groups(arch: str, size: int, count: int) -> None:
    groups = coupling_groups(trace(build(arch, 10), (3, size, size)))
    assert len(groups) == count and not any(group.frozen for group in groups)


class _Normed(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Conv2d(3, 4, 3), norm, nn.Conv2d(4, 6, 3)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.two(self.norm(self.one(x))).mean((2, 3)))
        return logits


def test_group_normalisation_freezes_what_it_reads_and_is_named() -> None:
    groups = _groups(_Normed(nn.GroupNorm(2, 4)))
    assert "GroupNorm `norm`" in groups["one"].frozen
    assert not groups["two"].frozen


def test_unknown_function_freezes_what_it_reads_and_is_named() -> None:
    class Cumulative(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cumsum(x, 1)

    assert "cumsum" in _groups(_Normed(Cumulative()))["one"].frozen


def test_mean_over_channels_freezes_them() -> None:
    class Centred(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(1, keepdim=True)

    assert "mean" in _groups(_Normed(Centred()))["one"].frozen


def test_spatial_gate_of_one_channel_does_not_couple_the_channels_it_scales() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Conv2d(4, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.sigmoid(self.gate(x))

    groups = _groups(_Normed(Gate()))
    assert groups["one"].units == 4 and not groups["one"].frozen
    assert "one channel over many" in groups["norm.gate"].frozen


def test_fixed_tensor_added_to_channels_freezes_them() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.randn(4, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.shift

    assert "fixed tensor" in _groups(_Normed(Shifted()))["one"].frozen


def test_module_that_is_called_twice_couples_both_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body, self.head = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = functional.relu(self.body(functional.relu(self.body(functional.relu(self.stem(x))))))
            logits: Tensor = self.head(x.mean((2, 3)))
            return logits

    assert {name: group.units for name, group in _groups(Twice()).items()} == {"stem": 4}


def _coupling(model: nn.Module) -> Coupling:
    network: Network = trace(model, SHAPE)
    return coupling_of(network)


def test_what_couples_a_network_is_found_once_and_forgotten_with_it() -> None:
    network = trace(Chain(), SHAPE)
    first = coupling_of(network)
    assert coupling_of(network) is first
    assert coupling_of(replace(network, module=copy.deepcopy(network.module))) is not first
    gone = weakref.ref(first)
    del network, first
    gc.collect()
    assert gone() is None


def test_channel_counts_are_linear_in_the_widths() -> None:
    coupling = _coupling(Dense(width=6, growth=4))
    assert coupling.channels("cat_1") == ChannelCount(terms=(("conv1", 1), ("conv2", 1), ("stem", 1)))
    assert coupling.channels("cat_1").at({"conv1": 2, "conv2": 3, "stem": 5}) == 10
    assert _coupling(Chain()).channels("head") == ChannelCount(fixed=5)


def test_keep_must_name_prunable_groups_and_different_units() -> None:
    coupling = _coupling(_Normed(nn.GroupNorm(2, 4)))
    with pytest.raises(ValueError, match="GroupNorm"):
        coupling.kept({"one": np.array([0])})
    with pytest.raises(ValueError, match="does not exist"):
        coupling.kept({"nowhere": np.array([0])})
    for units in ([], [1, 1], [0, 0], [-1], [6]):
        with pytest.raises(ValueError, match="different"):
            coupling.kept({"two": np.array(units, dtype=np.int64)})


def test_convolution_with_batch_norm_alone_has_its_own_group() -> None:
    model = nn.Sequential(conv_bn(3, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert set(_groups(model)) == {"0.0"}
