"""Training under masks: what is masked is zero, and learns all the same with the straight-through estimator."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lut.pattern import Pattern
from pruning.network import Network
from pruning.patterns.masks import best_mask
from pruning.patterns.training import MaskedTraining
from tests.builders import images, network

LAYERS = ("a1.0", "b2.0")
MODES = ("ste", "fixed")
MakeOptimizer = Callable[[Network], torch.optim.Optimizer]


def _weight(net: Network, name: str) -> Tensor:
    weight = net.module.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight


def _masks(net: Network, n: int = 1, m: int = 2) -> dict[str, Tensor]:
    return {name: best_mask(_weight(net, name).detach().abs(), Pattern(n=n, m=m)) for name in LAYERS}


def _sgd(net: Network, rate: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.module.parameters(), lr=rate)


def _backward(net: Network, optimizer: torch.optim.Optimizer, seed: int = 0) -> None:
    optimizer.zero_grad()
    net.module(images(batch=4, seed=seed)).square().mean().backward()


def _step(net: Network, optimizer: torch.optim.Optimizer, seed: int = 0) -> None:
    _backward(net, optimizer, seed)
    torch.nn.utils.clip_grad_norm_(net.module.parameters(), 1.0)
    optimizer.step()


def _bits(values: Tensor) -> Tensor:
    return values.detach().contiguous().view(torch.int32)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "make", [lambda net: torch.optim.AdamW(net.module.parameters(), lr=1e-2, weight_decay=1e-2), _sgd]
)
def test_masked_weights_are_zero_bit_for_bit_at_all_times(mode: str, make: MakeOptimizer) -> None:
    net = network("Residual")
    masks, optimizer = _masks(net), make(net)
    training = MaskedTraining(net, masks, mode=mode)
    training.attach(optimizer)
    for seed in range(4):
        assert all(not _bits(_weight(net, name))[~masks[name]].any() for name in LAYERS)
        _step(net, optimizer, seed)
    training.finish()
    for name in LAYERS:
        assert not _bits(_weight(net, name))[~masks[name]].any()
        assert _weight(net, name)[masks[name]].all()


@pytest.mark.parametrize("mode", MODES)
def test_kept_weights_and_other_layers_learn(mode: str) -> None:
    net = network("Residual")
    masks, optimizer = _masks(net), _sgd(net)
    before = {name: value.clone() for name, value in net.module.state_dict().items()}
    training = MaskedTraining(net, masks, mode=mode)
    training.attach(optimizer)
    _step(net, optimizer)
    after = net.module.state_dict()
    assert list(after) == list(before)
    assert (after["a1.0.weight"] != before["a1.0.weight"])[masks["a1.0"]].any()
    assert not torch.equal(after["head.weight"], before["head.weight"])


def test_weights_behind_the_mask_move_by_the_masked_network_s_gradient_and_the_decay() -> None:
    net, decay, rate = network("Residual"), 0.05, 0.1
    masks, optimizer = _masks(net), _sgd(net, rate)
    dense = {name: _weight(net, name).detach().clone() for name in LAYERS}
    training = MaskedTraining(net, masks, decay=decay)
    training.attach(optimizer)
    _backward(net, optimizer)
    gradients = {name: _weight(net, name).grad.clone() for name in LAYERS}  # type: ignore[union-attr]
    optimizer.step()
    hidden = training.state_dict()
    for name in LAYERS:
        assert gradients[name][~masks[name]].any()
        expected = dense[name] - rate * (gradients[name] + decay * ~masks[name] * dense[name])
        torch.testing.assert_close(hidden[name], expected)
        torch.testing.assert_close(_weight(net, name).detach(), expected * masks[name])


def test_gradients_are_those_of_the_masked_network() -> None:
    net, reference = network("Residual"), network("Residual")
    masks = _masks(net)
    training = MaskedTraining(net, masks)
    training.attach(optimizer := _sgd(net))
    with torch.no_grad():
        for name in LAYERS:
            _weight(reference, name).mul_(masks[name])
    _backward(net, optimizer)
    _backward(reference, _sgd(reference))
    for one, other in zip(net.module.parameters(), reference.module.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        torch.testing.assert_close(one.grad, other.grad)


def test_a_weight_that_comes_back_has_what_it_learnt_behind_the_mask() -> None:
    net = network("Residual")
    masks, optimizer = _masks(net), _sgd(net)
    dense = {name: _weight(net, name).detach().clone() for name in LAYERS}
    training = MaskedTraining(net, masks)
    training.attach(optimizer)
    _step(net, optimizer)
    hidden = training.state_dict()
    others = {name: ~mask for name, mask in masks.items()}
    training.swap(others)
    for name in LAYERS:
        assert torch.equal(_weight(net, name).detach(), torch.where(others[name], hidden[name], 0))
        assert (_weight(net, name) != dense[name])[others[name]].all()
    _step(net, optimizer)
    assert all(not _weight(net, name)[masks[name]].any() for name in LAYERS)


def test_fixed_masks_shut_masked_weights_out_before_gradients_are_clipped() -> None:
    net = network("Residual")
    masks, optimizer = _masks(net), _sgd(net)
    training = MaskedTraining(net, masks, mode="fixed")
    training.attach(optimizer)
    _backward(net, optimizer)
    for name in LAYERS:
        gradient = _weight(net, name).grad
        assert gradient is not None and not gradient[~masks[name]].any() and gradient[masks[name]].any()
    assert not training.state_dict()


def test_a_nested_swap_of_fixed_masks_holds_with_an_optimiser_that_has_momentum() -> None:
    net = network("Residual")
    optimizer = torch.optim.AdamW(net.module.parameters(), lr=1e-2)
    training = MaskedTraining(net, _masks(net, 2, 3), mode="fixed")
    training.attach(optimizer)
    _step(net, optimizer)
    tighter = {
        name: mask & (torch.arange(mask.shape[1]) % 2 == 0)[None, :, None, None]
        for name, mask in _masks(net, 2, 3).items()
    }
    training.swap(tighter)
    for seed in range(3):
        _step(net, optimizer, seed)
        assert all(not _weight(net, name)[~tighter[name]].any() for name in LAYERS)


@pytest.mark.parametrize("mode", MODES)
def test_a_run_goes_on_from_its_state_as_if_it_had_not_stopped(mode: str) -> None:
    straight, resumed = network("Residual"), network("Residual")
    masks, one = _masks(straight), _sgd(straight)
    training = MaskedTraining(straight, masks, mode=mode)
    training.attach(one)
    _step(straight, one, 0)
    weights = {name: value.clone() for name, value in straight.module.state_dict().items()}
    hidden = training.state_dict()
    _step(straight, one, 1)
    again = MaskedTraining(resumed, masks, mode=mode)
    again.attach(other := _sgd(resumed))
    resumed.module.load_state_dict(weights)
    again.load_state_dict(hidden)
    _step(resumed, other, 1)
    assert all(
        torch.equal(a, b)
        for a, b in zip(straight.module.state_dict().values(), resumed.module.state_dict().values(), strict=True)
    )
    for name, value in training.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_weights_written_from_outside_are_masked_by_apply() -> None:
    net = network("Residual")
    start = {name: value.clone() for name, value in net.module.state_dict().items()}
    masks = _masks(net)
    training = MaskedTraining(net, masks)
    training.attach(optimizer := _sgd(net))
    _step(net, optimizer)
    net.module.load_state_dict(start)
    training.apply()
    for name in LAYERS:
        assert not _weight(net, name)[~masks[name]].any()
        assert torch.equal(training.state_dict()[name], start[f"{name}.weight"])


def test_after_finish_and_after_another_attach_an_optimiser_is_its_own_again() -> None:
    net = network("Residual")
    masks, first, second = _masks(net), _sgd(net), _sgd(net)
    training = MaskedTraining(net, masks, mode="fixed")
    training.attach(first)
    training.attach(second)
    _step(net, first)
    training.finish()
    _step(net, second)
    assert any(_weight(net, name)[~masks[name]].any() for name in LAYERS)


def test_wrong_masks_and_modes_are_refused() -> None:
    net = network("Residual")
    with pytest.raises(ValueError, match="mode"):
        MaskedTraining(net, {}, mode="soft")
    with pytest.raises(ValueError, match="mask"):
        MaskedTraining(net, {"a1.0": torch.ones(2, 2, dtype=torch.bool)})
