import operator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pruning.modules import ChannelPad, ChannelSelect
from pruning.trace import NotTraceable, trace
from tests.builders import NETWORKS, SHAPE, Chain, Padded, Residual, Shuffle, images, lively


@pytest.mark.parametrize("name", NETWORKS)
def test_traced_network_computes_what_the_model_computes_at_every_batch_size(name: str) -> None:
    model = lively(NETWORKS[name]())
    network = trace(model, SHAPE)
    for batch in (1, 3):
        x = images(batch=batch)
        assert torch.equal(network.module(x), model(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_keep_their_names(name: str) -> None:
    model = NETWORKS[name]()
    assert set(trace(model, SHAPE).module.state_dict()) == set(model.state_dict())


def test_every_tensor_has_its_shape_at_batch_size_one() -> None:
    nodes = {node.name: node for node in trace(Chain(), SHAPE).module.graph.nodes}
    assert nodes["pool"].meta["shape"] == (1, 8, 4, 4)
    assert nodes["head"].meta["shape"] == (1, 5)


def test_network_knows_its_logits_and_is_in_eval_mode() -> None:
    network = trace(Residual(num_outputs=7).train(), SHAPE)
    assert network.num_outputs == 7
    assert not any(module.training for module in network.module.modules())


def test_model_is_left_as_it_was() -> None:
    class Inplace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(3 * 256, 2)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.relu(x).flatten(1))
            return logits

    model = Inplace().train()
    network = trace(model, SHAPE)
    assert model.training and model.relu.inplace
    assert not any(getattr(module, "inplace", False) for module in network.module.modules())


def test_functions_and_methods_become_modules_and_plain_operators() -> None:
    graph = trace(Residual(), SHAPE).module.graph
    assert not any(node.op == "call_method" for node in graph.nodes)
    functions = {node.target for node in graph.nodes if node.op == "call_function"}
    assert functions == {operator.add, torch.mean}


def test_split_and_shuffle_become_channel_selections() -> None:
    network = trace(Shuffle(width=8), SHAPE)
    selections = [module for module in network.module.modules() if isinstance(module, ChannelSelect)]
    assert [m.index.tolist() for m in selections] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [0, 4, 1, 5],
        [2, 6, 3, 7],
        [0, 4, 1, 5, 2, 6, 3, 7],
    ]


def test_zero_padding_of_channels_becomes_a_channel_pad() -> None:
    network = trace(Padded(width=4), SHAPE)
    pads = [module for module in network.module.modules() if isinstance(module, ChannelPad)]
    assert [m.index.tolist() for m in pads] == [[-1, -1, 0, 1, 2, 3, -1, -1], [-1, *range(8), -1]]


def test_padding_of_channels_and_space_at_once_is_split_in_two() -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional.pad(x, (1, 2, 0, 3, 1, 0)).mean((2, 3))

    network = trace(Both(), SHAPE)
    assert torch.equal(network.module(images()), Both()(images()))
    assert [m.index.tolist() for m in network.module.modules() if isinstance(m, ChannelPad)] == [[-1, 0, 1, 2]]


def test_spelling_of_arguments_does_not_matter() -> None:
    class Spelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.mean(functional.relu(input=self.conv(input=x)), axis=(2, 3), keepdims=True)
            return torch.cat(tensors=[x, x], dim=1).squeeze()

    model = Spelled()
    network = trace(model, SHAPE)
    assert torch.equal(network.module(images()), model(images()))
    assert network.module(images(batch=1)).shape == (1, 8)


class _NormAndActivation(nn.BatchNorm2d):
    """A BatchNorm with a child of its own, spelled as a function."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-3)
        self.activation = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        x = functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, self.eps)
        activated: Tensor = self.activation(x)
        return activated


class _OwnLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


def test_layers_spelled_as_functions_become_modules_of_the_same_name() -> None:
    _OwnLinear.__module__ = _NormAndActivation.__module__ = "elsewhere"
    layers = [nn.Conv2d(3, 4, 3), _NormAndActivation(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), _OwnLinear(4, 2)]
    model = lively(nn.Sequential(*layers))
    network = trace(model, SHAPE)
    assert torch.equal(network.module(images()), model(images()))
    assert set(network.module.state_dict()) == set(model.state_dict())
    assert type(network.module.get_submodule("1")) is nn.BatchNorm2d
    assert type(network.module.get_submodule("4")) is nn.Linear


def test_selection_with_gaps_equals_indexing() -> None:
    x = torch.randn(2, 5, 3, 3)
    assert torch.equal(ChannelSelect(torch.tensor([4, 0, 2]))(x), x[:, [4, 0, 2]])
    padded = ChannelPad(torch.tensor([3, -1, 1]))(x)
    assert torch.equal(padded[:, [0, 2]], x[:, [3, 1]]) and not padded[:, 1].any()


def test_branch_on_a_tensor_value_is_refused_with_a_way_out() -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))

    with pytest.raises(NotTraceable, match="ONNX"):
        trace(Branch(), SHAPE)


def test_output_that_is_not_one_row_of_logits_is_refused() -> None:
    with pytest.raises(NotTraceable, match="logits"):
        trace(nn.Conv2d(3, 4, 3), SHAPE)


def test_input_too_small_for_the_network_is_refused() -> None:
    with pytest.raises(NotTraceable, match="cannot run"):
        trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)), (3, 2, 2))
