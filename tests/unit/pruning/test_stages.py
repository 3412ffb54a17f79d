"""Residual branches that go as a whole."""

import numpy as np
import pytest
import torch
from torch import nn

from pruning.architectures import build as architecture
from pruning.groups import coupling_groups
from pruning.network import Network
from pruning.operators import operators
from pruning.stages import build, removable_stages
from pruning.trace import trace
from tests.builders import images, lively


def network(arch: str, size: int = 32) -> Network:
    shape = (3, size, size)
    return trace(lively(architecture(arch, 10), shape), shape)


def stages(net: Network):  # type: ignore[no-untyped-def]
    groups = coupling_groups(net)
    return removable_stages(net, groups, operators(net, groups))


@pytest.mark.parametrize(("arch", "num_stages"), [("cifar/resnet20", 7), ("torchvision/resnet18", 5)])
def test_every_block_with_an_identity_shortcut_may_go_and_no_other(arch: str, num_stages: int) -> None:
    found = stages(network(arch))
    assert len(found) == num_stages
    assert len({layer for stage in found for layer in stage.layers}) == sum(len(stage.layers) for stage in found)
    assert all(len(stage.groups) == 1 for stage in found)


def test_networks_without_shortcuts_have_no_stages() -> None:
    assert stages(network("torchvision/vgg11_bn")) == ()


@pytest.mark.parametrize("arch", ["cifar/resnet20", "torchvision/mobilenet_v2", "torchvision/resnet50"])
def test_removing_branches_equals_silencing_them(arch: str) -> None:
    net = network(arch)
    groups, found = coupling_groups(net), stages(net)
    removed = [stage.id for stage in found[::2]]
    keep = {group: np.zeros(0, dtype=np.int64) for stage in found[::2] for group in stage.groups}
    small = build(net, groups, keep, removed)
    silent = silenced(net, removed)
    x = images(net.input_shape)
    with torch.no_grad():
        torch.testing.assert_close(small.module(x), silent.module(x), atol=1e-4, rtol=1e-4)
    assert sum(p.numel() for p in small.module.parameters()) < sum(p.numel() for p in net.module.parameters())


def silenced(net: Network, removed: list[str]) -> Network:
    """Return a copy in which the last weights of each removed branch are zero."""
    import copy
    from dataclasses import replace

    module = copy.deepcopy(net.module)
    for node in module.graph.nodes:
        if node.name in removed:
            end = max(node.all_input_nodes, key=lambda side: list(module.graph.nodes).index(side))
            norm = module.get_submodule(str(end.target))
            assert isinstance(norm, nn.BatchNorm2d)
            with torch.no_grad():
                norm.weight.zero_()
                norm.bias.zero_()
    return replace(net, module=module)


class Repeated(nn.Module):
    """One residual block, applied twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.back = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 9, 3, padding=1), nn.Conv2d(9, 4, 1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        for _ in range(2):
            x = x + self.back(torch.relu(self.wide(x)))
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


def test_a_block_that_another_stage_uses_keeps_its_units_when_one_goes() -> None:
    net = trace(lively(Repeated(), (3, 8, 8)), (3, 8, 8))
    groups, found = coupling_groups(net), stages(net)
    assert [stage.groups for stage in found] == [(), ()] and {group.id for group in groups} == {"stem", "wide"}
    small = build(net, groups, {"wide": np.arange(3)}, [found[0].id])
    assert small.module.get_submodule("wide").weight.shape[0] == 3  # type: ignore[union-attr]


def test_a_stage_that_does_not_exist_is_refused() -> None:
    net = network("cifar/resnet20")
    with pytest.raises(ValueError, match="no removable stage"):
        build(net, coupling_groups(net), {}, ["conv1"])
