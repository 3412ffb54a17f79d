import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pruning.evaluate import accuracy
from pruning.groups import coupling_groups
from pruning.masked import masked_copy
from pruning.saliency import METHODS, Others, channel_scores_from_weights, score, score_all
from pruning.slim import slim
from pruning.trace import trace
from tests.unit.pruning.pictures import ResidualNet, digits, grouped, trained

OWN = tuple(method for method in METHODS if method != "other_classes")


class Chain(nn.Module):
    """Two convolutions, the second without normalisation, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.norm(self.first(x)))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


@pytest.fixture(scope="module")
def batches() -> list[tuple[Tensor, Tensor]]:
    return list(digits()[0].take(96).batches(32))


def by_hand(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> list[dict[str, Tensor]]:
    """Return W * dL/dW of every parameter for each mini-batch."""
    products = []
    for images, labels in batches:
        model.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        products.append(
            {name: (p * p.grad).detach().double() for name, p in model.named_parameters() if p.grad is not None}
        )
    return products


def test_scores_are_the_equations_worked_by_hand(batches: list[tuple[Tensor, Tensor]]) -> None:
    torch.manual_seed(1)
    model = Chain().eval()
    network = trace(model, (1, 8, 8))
    values = score_all(network, coupling_groups(network), batches, OWN).values
    products = by_hand(model, batches)
    squared = sum(p["second.weight"].sum((0, 2, 3)) ** 2 for p in products) / 3
    np.testing.assert_allclose(values["squared_taylor"]["first"], squared, rtol=1e-4)
    affine = sum((p["norm.weight"] + p["norm.bias"]).abs() for p in products) / 3
    np.testing.assert_allclose(values["bn_taylor"]["first"], affine, rtol=1e-4)
    filters = sum(p["second.weight"].sum((1, 2, 3)).abs() for p in products) / 3
    np.testing.assert_allclose(values["bn_taylor"]["second"], filters, rtol=1e-4)
    absolute = {name: sum(p[name].abs() for p in products) / 3 for name in products[0]}
    coupled = absolute["second.weight"].sum((1, 2, 3)) + absolute["head.weight"].sum(0)
    np.testing.assert_allclose(values["cass"]["second"], coupled, rtol=1e-4)
    norm = (model.first.weight.square().sum((1, 2, 3)) + model.second.weight.square().sum((0, 2, 3))).sqrt().detach()
    np.testing.assert_allclose(values["magnitude"]["first"], norm, rtol=1e-4)


def test_input_slices_of_grouped_convolutions_find_their_channels(batches: list[tuple[Tensor, Tensor]]) -> None:
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)
    ).eval()
    network = trace(model, (1, 8, 8))
    group = next(group for group in coupling_groups(network) if group.id == "0")
    product = by_hand(model, batches[:1])[0]["2.weight"]
    channels = torch.cat([product[:4].sum((0, 2, 3)), product[4:].sum((0, 2, 3))]).numpy()
    slot = next(slot for slot in group.slots if slot.module == "2" and slot.axis == "in")
    scores = score(network, (group,), batches[:1], "squared_taylor")["0"]
    np.testing.assert_allclose(scores, channels[slot.index].sum(axis=1) ** 2, rtol=1e-4)


def test_one_pass_gives_every_method_the_same_values_as_its_own(batches: list[tuple[Tensor, Tensor]]) -> None:
    network = trace(ResidualNet().eval(), (1, 8, 8))
    groups = grouped(network)
    others = Others(network=network, batches=batches[1:])
    together = score_all(network, groups, batches, tuple(METHODS), seed=7, others=others, weights=True).values
    for method in METHODS:
        for group, values in score(network, groups, batches, method, seed=7, others=others).items():
            np.testing.assert_array_equal(values, together[method][group])
            assert (values >= 0).all() and values.any()


def test_mini_batches_that_are_not_finite_are_dropped_and_counted(batches: list[tuple[Tensor, Tensor]]) -> None:
    network = trace(ResidualNet().eval(), (1, 8, 8))
    groups = grouped(network)
    broken = (torch.full_like(batches[0][0], float("nan")), batches[0][1])
    mixed = score_all(network, groups, [broken, *batches])
    clean = score_all(network, groups, batches)
    assert (mixed.num_batches, mixed.num_dropped) == (3, 1)
    for method, by_group in clean.values.items():
        for group, values in by_group.items():
            np.testing.assert_array_equal(values, mixed.values[method][group])
    with pytest.raises(ValueError, match="no mini-batch"):
        score_all(network, groups, [broken])


def test_the_network_is_left_as_it_was(batches: list[tuple[Tensor, Tensor]]) -> None:
    network = trace(ResidualNet().eval(), (1, 8, 8))
    network.module.requires_grad_(False)
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    score_all(network, grouped(network), batches)
    assert all(torch.equal(value, before[name]) for name, value in network.module.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in network.module.parameters())


def test_random_is_seeded_and_unknown_methods_are_named() -> None:
    network = trace(ResidualNet().eval(), (1, 8, 8))
    groups = grouped(network)
    one, same, other = (score(network, groups, (), "random", seed) for seed in (0, 0, 1))
    assert all(np.array_equal(one[g.id], same[g.id]) and not np.array_equal(one[g.id], other[g.id]) for g in groups)
    with pytest.raises(ValueError, match="squared_taylor"):
        score(network, groups, (), "importance")


def test_keeping_the_salient_units_beats_keeping_the_others() -> None:
    train, held = digits()
    network = trained(train)
    groups = grouped(network)
    scores = score(network, groups, train.batches(64), "squared_taylor")["conv1"]
    order = np.argsort(-scores)
    best, worst = ({"conv1": np.sort(order[part])} for part in (slice(0, 8), slice(8, 16)))
    kept = [accuracy(slim(network, groups, keep), held) for keep in (best, worst)]
    assert kept[0].loss < kept[1].loss


def test_weight_saliencies_are_the_equations_worked_by_hand(batches: list[tuple[Tensor, Tensor]]) -> None:
    torch.manual_seed(1)
    model = Chain().eval()
    network = trace(model, (1, 8, 8))
    weights = score_all(network, coupling_groups(network), batches, OWN, weights=True).weights
    products = by_hand(model, batches)
    for name, layer in {"first": model.first, "second": model.second, "head": model.head}.items():
        mine = [p[f"{name}.weight"] for p in products]
        expected = {
            "cass": sum(p.abs() for p in mine) / 3,
            "squared_taylor": sum(p.square() for p in mine) / 3,
            "magnitude": layer.weight.detach().double().square(),
        }
        for method, values in expected.items():
            np.testing.assert_allclose(weights[method][name], values, rtol=1e-3, atol=1e-12)
            assert weights[method][name].dtype == torch.float32
    channel = sum((p["norm.weight"] + p["norm.bias"]).abs() for p in products) / 3
    np.testing.assert_allclose(weights["bn_taylor"]["first"].sum((1, 2, 3)), channel, rtol=1e-4)
    filters = sum(p["second.weight"].sum((1, 2, 3)).abs() for p in products) / 3
    np.testing.assert_allclose(weights["bn_taylor"]["second"].sum((1, 2, 3)), filters, rtol=1e-4)
    size = model.first.weight.detach()[2].abs()
    np.testing.assert_allclose(weights["bn_taylor"]["first"][2] / channel[2], size / size.sum(), rtol=1e-4)


def test_every_layer_that_is_not_grouped_has_weight_saliencies_in_its_own_shape(
    batches: list[tuple[Tensor, Tensor]],
) -> None:
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(96, 3),
    ).eval()  # fmt: skip
    network = trace(model, (1, 8, 8))
    groups = coupling_groups(network)
    found = score_all(network, groups, batches, OWN, seed=3, weights=True).weights
    again = score_all(network, groups[:1], batches, OWN, seed=3, weights=True).weights
    for method in OWN:
        assert {name: s.shape for name, s in found[method].items()} == {
            name: model.get_submodule(name).weight.shape for name in ("0", "4", "7")
        }
        for name, values in found[method].items():
            assert (values >= 0).all() and values.any()
            assert torch.equal(values, again[method][name])
    assert score_all(network, groups, batches, OWN).weights == {}


def test_one_measure_serves_channels_and_weights(batches: list[tuple[Tensor, Tensor]]) -> None:
    network = trace(ResidualNet().eval(), (1, 8, 8))
    groups = grouped(network)
    scores = score_all(network, groups, batches, ("cass", "magnitude"), weights=True)
    for method, root in (("cass", 1), ("magnitude", 2)):
        for group, values in channel_scores_from_weights(groups, scores.weights[method]).items():
            np.testing.assert_allclose(values, scores.values[method][group] ** root, rtol=1e-5)


def test_a_units_score_is_the_sum_over_its_filters_and_the_slices_that_read_it() -> None:
    network = trace(Chain().eval(), (1, 8, 8))
    groups = coupling_groups(network)
    weights = {"first": torch.rand(4, 1, 3, 3), "second": torch.rand(6, 4, 3, 3)}
    sums = channel_scores_from_weights(groups, weights)
    for unit in range(4):
        expected = float(weights["first"][unit].sum() + weights["second"][:, unit].sum())
        assert sums["first"][unit] == pytest.approx(expected, rel=1e-5)
    assert sums["second"] == pytest.approx(weights["second"].sum((1, 2, 3)).numpy(), rel=1e-5)


def test_other_classes_is_cass_on_the_images_that_were_not_chosen(batches: list[tuple[Tensor, Tensor]]) -> None:
    network = trace(ResidualNet().eval(), (1, 8, 8))
    groups = grouped(network)
    others = Others(network=trace(ResidualNet(num_outputs=7).eval(), (1, 8, 8)), batches=batches[1:])
    both = score_all(network, groups, batches[:1], ("cass", "other_classes"), others=others, weights=True)
    alone = score_all(others.network, groups, others.batches, ("cass",), weights=True)
    for group, values in both.values["other_classes"].items():
        np.testing.assert_array_equal(values, alone.values["cass"][group])
    for layer, saliency in both.weights["other_classes"].items():
        assert torch.equal(saliency, alone.weights["cass"][layer])
    assert both.num_batches == 1
    with pytest.raises(ValueError, match="not chosen"):
        score(network, groups, batches, "other_classes")


def test_weights_behind_a_mask_are_scored_at_the_gradient_of_the_masked_network() -> None:
    torch.manual_seed(1)
    batches = list(digits()[0].take(64).batches(32))
    whole = trace(Chain().eval(), (1, 8, 8))
    groups = coupling_groups(whole)
    weight = whole.module.get_submodule("second").weight
    assert isinstance(weight, Tensor)
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    masked = masked_copy(whole, {"second": mask})
    kept = score_all(masked, groups, batches, OWN, weights=True)
    found = score_all(masked, groups, batches, OWN, weights=True, behind={"second": weight.detach()})
    for method in ("squared_taylor", "cass", "magnitude"):
        torch.testing.assert_close(found.weights[method]["second"][mask], kept.weights[method]["second"][mask])
        assert found.weights[method]["second"][~mask].any() and not kept.weights[method]["second"][~mask].any()
        for group, values in kept.values[method].items():
            np.testing.assert_array_equal(found.values[method][group], values)
    gradients = torch.zeros(weight.shape, dtype=torch.float64)
    module = masked.module.requires_grad_(True)
    for images, labels in batches:
        (gradient,) = torch.autograd.grad(
            functional.cross_entropy(module(images), labels),
            [module.get_submodule("second").weight],  # type: ignore[list-item]
        )
        gradients += gradient.double() ** 2 / 2
    by_hand = weight.detach().double() ** 2 * gradients
    torch.testing.assert_close(found.weights["squared_taylor"]["second"].double(), by_hand, rtol=1e-4, atol=1e-12)
