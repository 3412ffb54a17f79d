import numpy as np
import pytest
import torch
from pictures import digits, first_units, grouped, trained
from torch import Tensor, nn

from pruning.data import Split
from pruning.evaluate import accuracy
from pruning.groups import coupling_groups
from pruning.moments import Moments
from pruning.network import Network
from pruning.operators import operators
from pruning.reconstruct import keep_better, reconstruct
from pruning.slim import slim
from pruning.stages import build, removable_stages
from pruning.trace import trace


@pytest.fixture(scope="module")
def data() -> tuple[Split, Split]:
    return digits()


@pytest.fixture(scope="module")
def dense(data: tuple[Split, Split]) -> Network:
    return trained(data[0])


@pytest.fixture(scope="module")
def images(data: tuple[Split, Split]) -> Tensor:
    return next(data[0].take(256).batches(256))[0]


def test_moments_solve_what_a_dense_solver_solves() -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(500, 6, generator=draw) + 1, torch.randn(500, 2, generator=draw)
    moments = Moments.zeros(1, 6, 2)
    for part in (slice(0, 200), slice(200, 500)):
        moments.add(x[part], y[part])
    weight, bias = moments.solve(torch.zeros(1, 6, 2, dtype=torch.float64), intercept=True)
    centred = (x - x.mean(0)).double()
    covariance = centred.T @ centred / 500
    damped = covariance + 0.01 * covariance.diagonal().mean() * torch.eye(6)
    expected = torch.linalg.solve(damped, centred.T @ (y - y.mean(0)).double() / 500)
    torch.testing.assert_close(weight[0], expected, rtol=1e-4, atol=1e-6)
    error = (x.double() @ weight[0] + bias[0] - y).square().mean(0)
    torch.testing.assert_close(moments.error(weight, bias)[0], error, rtol=1e-4, atol=1e-6)


def test_units_that_repeat_others_are_made_up_for_exactly(images: Tensor) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(),
        nn.Linear(80, 3),
    ).eval()  # fmt: skip
    with torch.no_grad():
        model[0].weight[4:] = model[0].weight[:4]
        model[0].bias[4:] = model[0].bias[:4]
    network = trace(model, (1, 8, 8))
    groups = coupling_groups(network)
    keep = {"0": np.arange(4)}
    cut = slim(network, groups, keep)
    result = reconstruct(network, cut, groups, keep, images)
    wrong, right = ((net.module(images) - network.module(images)).abs().max() for net in (cut, result.network))
    assert right < 0.1 * wrong
    assert result.layers[0].error_after < 1e-3 < result.layers[0].error_before


def test_repair_brings_back_most_of_what_the_cut_lost(
    data: tuple[Split, Split], dense: Network, images: Tensor
) -> None:
    groups = grouped(dense)
    keep = first_units(groups, 0.6)
    cut = slim(dense, groups, keep)
    result = reconstruct(dense, cut, groups, keep, images)
    before, after = accuracy(cut, data[1]).overall, accuracy(result.network, data[1]).overall
    assert after > before + 0.1
    assert after > accuracy(dense, data[1]).overall - 0.15
    assert not result.left
    assert {fit.layer for fit in result.layers} == {"conv1", "conv2", "head"}
    assert [fit.residual for fit in result.layers] == [False, True, False]


def test_no_layer_is_further_from_its_target_than_it_was(dense: Network, images: Tensor) -> None:
    groups = grouped(dense)
    for share in (0.3, 0.9):
        keep = first_units(groups, share)
        fits = reconstruct(dense, slim(dense, groups, keep), groups, keep, images).layers
        assert all(fit.error_after <= fit.error_before + 1e-9 for fit in fits)


def test_inputs_are_left_alone_and_the_repair_repeats_itself(dense: Network, images: Tensor) -> None:
    groups = grouped(dense)
    keep = first_units(groups, 0.5)
    cut = slim(dense, groups, keep)
    before = {name: value.clone() for name, value in cut.module.state_dict().items()}
    one, two = (reconstruct(dense, cut, groups, keep, images, seed=4).network for _ in range(2))
    assert all(torch.equal(value, before[name]) for name, value in cut.module.state_dict().items())
    other = two.module.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.module.state_dict().items())


def test_a_small_memory_bound_uses_fewer_images_and_still_works(dense: Network, images: Tensor) -> None:
    groups = grouped(dense)
    keep = first_units(groups, 0.5)
    result = reconstruct(dense, slim(dense, groups, keep), groups, keep, images, memory_bytes=400_000)
    assert 1 < result.num_images < 256
    assert all(fit.error_after <= fit.error_before + 1e-9 for fit in result.layers)


def test_what_follows_a_removed_branch_is_repaired(data: tuple[Split, Split], dense: Network, images: Tensor) -> None:
    groups = grouped(dense)
    (stage,) = removable_stages(dense, groups, operators(dense, groups))
    cut = build(dense, groups, {}, [stage.id])
    result = reconstruct(dense, cut, groups, {}, images)
    assert [fit.layer for fit in result.layers] == ["head"]
    assert accuracy(result.network, data[1]).loss < accuracy(cut, data[1]).loss


def test_a_network_that_was_not_cut_has_nothing_to_repair(dense: Network, images: Tensor) -> None:
    result = reconstruct(dense, dense, grouped(dense), {}, images)
    assert result.layers == ()
    torch.testing.assert_close(result.network.module(images), dense.module(images))


def test_strides_dilations_groups_and_depthwise_layers_are_handled(images: Tensor) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 6, (3, 1), stride=2, padding=(1, 0)),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    ).eval()  # fmt: skip
    network = trace(model, (1, 8, 8))
    groups = grouped(network)
    keep = first_units(groups, 0.5)
    cut = slim(network, groups, keep)
    result = reconstruct(network, cut, groups, keep, images)
    assert all(fit.error_after <= fit.error_before + 1e-9 for fit in result.layers)
    assert [fit.layer for fit in result.layers] == ["2", "7", "11"]
    assert list(result.left) == ["4"]
    errors = [(net.module(images) - network.module(images)).square().mean() for net in (cut, result.network)]
    assert errors[1] < errors[0]


def test_the_better_of_two_networks_is_kept(data: tuple[Split, Split], dense: Network) -> None:
    groups = grouped(dense)
    worse = slim(dense, groups, first_units(groups, 0.2))
    assert keep_better(dense, worse, data[1])[0] is dense
    assert keep_better(worse, dense, data[1])[0] is dense
