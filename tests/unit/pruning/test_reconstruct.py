import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pruning.activations import Targets
from pruning.data import Split
from pruning.evaluate import accuracy
from pruning.groups import coupling_groups
from pruning.masked import Masks, masked_copy
from pruning.moments import Moments
from pruning.network import Network
from pruning.operators import operators
from pruning.reconstruct import keep_better, reconstruct
from pruning.repairs import repairs
from pruning.slim import slim
from pruning.stages import build, removable_stages
from pruning.trace import trace
from tests.unit.pruning.pictures import digits, first_units, grouped, trained


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


def kinds_of_mask(shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Return masks [o, i, taps] of which some are ragged, and one that mixes everything, an empty row included."""
    draw = torch.Generator().manual_seed(1)
    elements = torch.rand(shape, generator=draw) < 0.4
    rows = (torch.rand(shape[0] // 4, shape[1], generator=draw) < 0.5).repeat_interleave(4, 0)[..., None].expand(shape)
    mixed = torch.cat([rows[:4], elements[4:]])
    mixed[-2], mixed[-1] = True, False
    return {"elements": elements, "block-rows": rows, "mixed": mixed}


@pytest.mark.parametrize("kind", ["elements", "block-rows", "mixed"])
@pytest.mark.parametrize("intercept", [False, True])
def test_each_output_is_solved_on_its_own_kept_inputs(kind: str, intercept: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    mask = kinds_of_mask((8, 3, 4))[kind].flatten(1)
    x, y = torch.randn(500, 12, generator=draw) + 1, torch.randn(500, 8, generator=draw)
    start = torch.randn(8, 12, generator=draw, dtype=torch.float64) * mask
    moments = Moments.zeros(1, 12, 8)
    moments.add(x, y)
    weight, bias = moments.solve(start.T[None], intercept, mask.T[None])
    assert not weight[0].T[~mask].any()
    for row, columns in enumerate(mask):
        kept, target = (value.double().numpy() for value in (x[:, columns], y[:, row]))
        centre, mean = kept.mean(0) * intercept, target.mean() * intercept
        centred, pull = kept - centre, start[row, columns].numpy()
        ridge = np.sqrt(0.01 * 500 * (centred**2).mean()) if len(pull) else 0.0
        stacked = np.vstack([centred, ridge * np.eye(len(pull))]), np.concatenate([target - mean, ridge * pull])
        expected = np.linalg.lstsq(*stacked, rcond=None)[0]
        np.testing.assert_allclose(weight[0, columns, row], expected, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(bias[0, row], mean - expected @ centre, rtol=1e-3, atol=1e-5)


def masks_of(network: Network, kind: str) -> Masks:
    """Return masks of the two convolutions of a block."""
    weights = {name: network.module.get_submodule(name).weight for name in ("conv1", "conv2")}
    return {name: kinds_of_mask(tuple(w.flatten(2).shape))[kind].reshape(w.shape) for name, w in weights.items()}


@pytest.mark.parametrize("kind", ["elements", "block-rows", "mixed"])
def test_masked_layers_are_repaired_and_their_masked_weights_stay_zero(
    data: tuple[Split, Split], dense: Network, images: Tensor, kind: str
) -> None:
    masks = masks_of(dense, kind)
    cut = masked_copy(dense, masks)
    result = reconstruct(dense, cut, grouped(dense), {}, images, masks=masks)
    assert [fit.layer for fit in result.layers] == ["conv1", "conv2", "head"]
    assert all(fit.error_after <= fit.error_before for fit in result.layers)
    assert accuracy(result.network, data[1]).overall > accuracy(cut, data[1]).overall
    for name, mask in masks.items():
        weight = result.network.module.get_submodule(name).weight
        assert not weight[~mask].any()
        assert not torch.equal(weight, cut.module.get_submodule(name).weight)
    again = reconstruct(dense, dense, grouped(dense), {}, images, masks=masks).network.module.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in result.network.module.state_dict().items())


def test_widths_and_masks_are_repaired_in_one_pass(data: tuple[Split, Split], dense: Network, images: Tensor) -> None:
    groups = grouped(dense)
    keep = first_units(groups, 0.5)
    slimmed = slim(dense, groups, keep)
    masks = masks_of(slimmed, "elements")
    cut = masked_copy(slimmed, masks)
    result = reconstruct(dense, cut, groups, keep, images, masks=masks)
    assert all(fit.error_after <= fit.error_before for fit in result.layers)
    assert all(not result.network.module.get_submodule(name).weight[~mask].any() for name, mask in masks.items())
    assert accuracy(result.network, data[1]).overall > accuracy(cut, data[1]).overall


def test_a_mask_that_keeps_all_changes_nothing(dense: Network, images: Tensor) -> None:
    groups = grouped(dense)
    keep = first_units(groups, 0.5)
    cut = slim(dense, groups, keep)
    everything = {name: torch.ones_like(cut.module.get_submodule(name).weight).bool() for name in ("conv1", "conv2")}
    plain = reconstruct(dense, cut, groups, keep, images)
    masked = reconstruct(dense, cut, groups, keep, images, masks=everything)
    assert [fit.layer for fit in masked.layers] == [fit.layer for fit in plain.layers]
    other = masked.network.module.state_dict()
    for name, value in plain.network.module.state_dict().items():
        torch.testing.assert_close(value, other[name])
    whole = {"conv1": torch.ones_like(dense.module.get_submodule("conv1").weight).bool()}
    assert reconstruct(dense, dense, groups, {}, images, masks=whole).layers == ()


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


def awkward() -> Network:
    """Return a network with a stride, a dilation, a grouped and a depthwise convolution."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 6, (3, 1), stride=2, padding=(1, 0)),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    ).eval()  # fmt: skip
    return trace(model, (1, 8, 8))


def test_every_kind_of_layer_may_be_masked(images: Tensor) -> None:
    network = awkward()
    draw = torch.Generator().manual_seed(0)
    layers = {name: network.module.get_submodule(name).weight for name in ("0", "2", "4", "7", "11")}
    masks = {name: torch.rand(weight.shape, generator=draw) < 0.6 for name, weight in layers.items()}
    cut = masked_copy(network, masks)
    result = reconstruct(network, cut, grouped(network), {}, images, masks=masks)
    assert [fit.layer for fit in result.layers] == ["0", "2", "7", "11"]
    assert list(result.left) == ["4"]
    assert all(fit.error_after <= fit.error_before for fit in result.layers)
    assert all(not result.network.module.get_submodule(name).weight[~mask].any() for name, mask in masks.items())
    errors = [(net.module(images) - network.module(images)).square().mean() for net in (cut, result.network)]
    assert errors[1] < errors[0]
    with pytest.raises(ValueError, match="the mask of '2'"):
        reconstruct(network, cut, grouped(network), {}, images, masks={"2": masks["0"]})


def test_strides_dilations_groups_and_depthwise_layers_are_handled(images: Tensor) -> None:
    network = awkward()
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


def test_rows_of_the_dense_network_held_for_several_masks_give_what_each_gives_alone(
    dense: Network, images: Tensor
) -> None:
    groups = coupling_groups(dense)
    weights = {
        name: one.weight for name, one in dense.module.named_modules() if isinstance(one, nn.Conv2d) and one.groups == 1
    }
    tasks, _ = repairs(dense, dense, groups, {}, list(weights))
    wanted = [task.wanted for task in tasks.values()]
    held = Targets(dense.module, wanted, images, 0, memory_bytes=1 << 16, hold=True)
    for least in (0.02, 0.05):
        masks = {name: weight.abs() > least for name, weight in weights.items()}
        cut = masked_copy(dense, masks)
        alone = reconstruct(dense, cut, groups, {}, images, masks=masks).network.module.state_dict()
        shared = reconstruct(dense, cut, groups, {}, images, masks=masks, targets=held).network.module.state_dict()
        assert all(torch.equal(value, shared[name]) for name, value in alone.items())
