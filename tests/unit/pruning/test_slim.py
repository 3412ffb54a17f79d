import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pruning.architectures import build
from pruning.groups import coupling_groups
from pruning.network import Network
from pruning.slim import head_module, mask, mask_head, slice_head, slim
from pruning.trace import trace
from tests.builders import NETWORKS, SHAPE, Chain, Grouped, Padded, lively, network, outputs, random_keep

TOLERANCE = 1e-4


def _gap(one: Network, other: Network, batch: int = 3) -> float:
    return float((outputs(one, batch) - outputs(other, batch)).abs().max())


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(NETWORKS)), st.integers(0, 10_000))
def test_masked_dense_equals_slimmed_for_random_widths(name: str, seed: int) -> None:
    dense = network(name)
    groups = coupling_groups(dense)
    keep = random_keep(groups, seed)
    assert _gap(mask(dense, groups, keep), slim(dense, groups, keep)) <= TOLERANCE


@pytest.mark.parametrize(
    ("arch", "size"),
    [
        ("cifar/resnet20", 32),
        ("cifar/resnet20-b", 32),
        ("torchvision/resnet18", 64),
        ("torchvision/mobilenet_v2", 64),
        ("torchvision/mobilenet_v3_small", 64),
        ("torchvision/shufflenet_v2_x0_5", 64),
        ("torchvision/squeezenet1_1", 64),
        ("torchvision/densenet121", 64),
        ("torchvision/googlenet", 64),
        ("torchvision/regnet_y_400mf", 64),
        ("torchvision/efficientnet_b0", 64),
        ("torchvision/mnasnet0_5", 64),
        ("torchvision/convnext_tiny", 32),
        ("torchvision/swin_t", 32),
    ],
)
def test_masked_dense_equals_slimmed_for_networks_people_use(arch: str, size: int) -> None:
    shape = (3, size, size)
    dense = trace(lively(build(arch, 10), shape), shape)
    groups = coupling_groups(dense)
    keep = random_keep(groups)
    slimmed = slim(dense, groups, keep)
    assert outputs(slimmed).std() > 1e-2
    assert _gap(mask(dense, groups, keep), slimmed, batch=2) <= TOLERANCE


def test_slimmed_parameters_are_smaller_and_keep_their_names() -> None:
    dense = network("Residual")
    groups = coupling_groups(dense)
    slimmed = slim(dense, groups, {group.id: np.arange(2) for group in groups})
    shapes = {name: tuple(tensor.shape) for name, tensor in slimmed.module.state_dict().items()}
    assert list(shapes) == list(dense.module.state_dict())
    assert shapes["a1.0.weight"] == (2, 2, 3, 3) and shapes["stem.1.running_var"] == (2,)
    assert [n.name for n in slimmed.module.graph.nodes] == [n.name for n in dense.module.graph.nodes]


def test_slimmed_shapes_are_annotated() -> None:
    dense = network("Chain")
    slimmed = slim(dense, coupling_groups(dense), {"two.0": np.array([1, 5])})
    nodes = {node.name: node for node in slimmed.module.graph.nodes}
    assert nodes["pool"].meta["shape"] == (1, 2, 4, 4)
    assert nodes["hidden"].meta["shape"] == (1, 10)


def test_slimming_leaves_the_dense_network_alone() -> None:
    dense = network("Inverted")
    before = outputs(dense)
    groups = coupling_groups(dense)
    keep = random_keep(groups, seed=1)
    slim(dense, groups, keep)
    mask(dense, groups, keep)
    assert torch.equal(outputs(dense), before)


@pytest.mark.parametrize("name", NETWORKS)
def test_keeping_everything_changes_nothing(name: str) -> None:
    dense = network(name)
    groups = coupling_groups(dense)
    keep = {group.id: np.arange(group.units) for group in groups}
    assert torch.equal(outputs(slim(dense, groups, keep)), outputs(dense))
    assert torch.equal(outputs(mask(dense, groups, keep)), outputs(dense))


@pytest.mark.parametrize("name", NETWORKS)
def test_slimmed_network_can_be_slimmed_again(name: str) -> None:
    dense = network(name)
    groups = coupling_groups(dense)
    once = slim(dense, groups, {group.id: np.arange(0, group.units, 2) for group in groups})
    again = coupling_groups(once)
    keep = random_keep(again, seed=3)
    assert _gap(mask(once, again, keep), slim(once, again, keep)) <= TOLERANCE


def test_slimmed_grouped_convolution_keeps_its_groups_and_depthwise_shrinks_them() -> None:
    dense = trace(lively(Grouped()), SHAPE)
    slimmed = slim(dense, coupling_groups(dense), {"one.0": np.array([0, 2]), "two.0": np.array([1, 2, 5])})
    two, three = slimmed.module.get_submodule("two.0"), slimmed.module.get_submodule("three")
    assert isinstance(two, nn.Conv2d) and isinstance(three, nn.Conv2d)
    assert (two.groups, two.in_channels, two.out_channels) == (2, 4, 6)
    assert (three.groups, three.in_channels, three.out_channels) == (6, 6, 12)


def test_masked_units_are_zero_where_they_are_made_and_ignored_where_they_are_read() -> None:
    dense = network("Residual")
    masked = mask(dense, coupling_groups(dense), {"a1.0": np.array([0, 3])})
    state = masked.module.state_dict()
    gone = [1, 2, 4, 5, 6]
    assert not state["a1.0.weight"][gone].any() and not state["a2.0.weight"][:, gone].any()
    assert not state["a1.1.bias"][gone].any() and (state["a1.1.running_var"][gone] == 1).all()


def test_padding_shortcut_survives_any_cut_on_either_side() -> None:
    dense = trace(lively(Padded(width=4)), SHAPE)
    groups = coupling_groups(dense)
    keep = {"stem.0": np.array([1, 2]), "one.0": np.array([0, 3, 5, 7])}
    slimmed = slim(dense, groups, keep)
    pads = [slimmed.module.get_submodule(str(n.target)) for n in slimmed.module.graph.nodes if n.name.startswith("pad")]
    assert pads[0].index.tolist() == [-1, 0, -1, -1]  # type: ignore[operator,union-attr]
    assert _gap(mask(dense, groups, keep), slimmed) <= TOLERANCE


def test_groups_of_another_network_are_refused() -> None:
    with pytest.raises(ValueError, match="another network"):
        slim(network("Chain"), coupling_groups(network("Dense")), {})


@pytest.mark.parametrize("name", NETWORKS)
def test_sliced_head_gives_the_chosen_logits_in_order(name: str) -> None:
    dense = network(name)
    sliced = slice_head(dense, [3, 0])
    assert sliced.num_outputs == 2
    torch.testing.assert_close(outputs(sliced), outputs(dense)[:, [3, 0]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["Chain", "Dense"])
def test_masked_head_never_predicts_another_class(name: str) -> None:
    dense = network(name)
    masked = mask_head(dense, [1, 4])
    assert masked.num_outputs == dense.num_outputs
    assert set(outputs(masked, 8).argmax(1).tolist()) <= {1, 4}
    torch.testing.assert_close(outputs(masked)[:, [1, 4]], outputs(dense)[:, [1, 4]])


def test_sliced_head_can_be_slimmed() -> None:
    dense = slice_head(trace(lively(build("torchvision/squeezenet1_1", 10), (3, 64, 64)), (3, 64, 64)), [2, 7, 5])
    groups = coupling_groups(dense)
    keep = random_keep(groups)
    slimmed = slim(dense, groups, keep)
    assert slimmed.num_outputs == 3 and _gap(mask(dense, groups, keep), slimmed) <= TOLERANCE


@pytest.mark.parametrize("rows", [[], [5], [-1], [1, 1]])
def test_rows_that_do_not_exist_are_refused(rows: list[int]) -> None:
    with pytest.raises(ValueError, match="rows"):
        slice_head(trace(Chain(num_outputs=5), SHAPE), rows)


def test_logits_that_no_layer_gives_directly_are_refused() -> None:
    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(768, 4), nn.Linear(768, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1)
            return self.one(x) + self.two(x)  # type: ignore[no-any-return]

    with pytest.raises(ValueError, match="stands in the way"):
        head_module(trace(Summed(), SHAPE))
