"""Reordering changes what a mask keeps, for the better, and nothing that a network computes."""

import copy
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from lut.pattern import Pattern
from pruning.architectures import build
from pruning.groups import coupling_groups
from pruning.network import Keep, Network
from pruning.patterns.masks import best_mask
from pruning.patterns.reorder import reorder
from pruning.reconstruct import reconstruct
from pruning.slim import mask, slim
from pruning.trace import trace
from tests.builders import NETWORKS, SHAPE, images, lively, network, outputs

PATTERNS = ("4x1@1/4", "4x4@1/2", "2:4+4x4/tap@1/2", "1:2v+4x2@1/2", "2:4")


def _shuffled(dense: Network, seed: int, share: float) -> Keep:
    rng = np.random.default_rng(seed)
    return {
        group.id: rng.permutation(group.units)[: max(1, round(share * group.units))]
        for group in coupling_groups(dense)
        if not group.frozen
    }


def _gap(one: Network, other: Network) -> float:
    return float((outputs(one) - outputs(other)).abs().max())


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(NETWORKS)), st.integers(0, 999), st.sampled_from([1.0, 0.5]))
def test_units_kept_in_any_order_compute_the_same(name: str, seed: int, share: float) -> None:
    dense = network(name)
    groups, keep = coupling_groups(dense), _shuffled(dense, seed, share)
    assert keep and any((np.diff(units) < 0).any() for units in _shuffled(dense, 1, 1.0).values())
    moved = slim(dense, groups, keep)
    assert _gap(moved, mask(dense, groups, keep)) <= 1e-5
    if share == 1:
        assert _gap(moved, dense) <= 1e-5


@pytest.mark.parametrize(
    "arch",
    ["cifar/resnet20", "torchvision/resnet18", "torchvision/mobilenet_v2", "torchvision/densenet121", "torchvision/shufflenet_v2_x0_5"],
)  # fmt: skip
def test_networks_people_use_compute_the_same_in_any_order(arch: str) -> None:
    shape = (3, 64, 64)
    dense = trace(lively(build(arch, 10), shape), shape)
    moved = slim(dense, coupling_groups(dense), _shuffled(dense, 0, 1.0))
    assert _gap(moved, dense) <= 1e-5
    assert all(a.shape == b.shape for a, b in zip(moved.module.parameters(), dense.module.parameters(), strict=True))


def test_the_unit_named_r_th_takes_the_place_of_the_r_th_smallest() -> None:
    dense = network("Residual")
    moved = slim(dense, coupling_groups(dense), {"a1.0": np.array([5, 0, 3])})
    old, new = dense.module.state_dict(), moved.module.state_dict()
    assert torch.equal(new["a1.0.weight"], old["a1.0.weight"][[5, 0, 3]])
    assert torch.equal(new["a1.1.running_var"], old["a1.1.running_var"][[5, 0, 3]])
    assert torch.equal(new["a2.0.weight"], old["a2.0.weight"][:, [5, 0, 3]])


class _Halves(nn.Module):
    """Half of a layer's channels behind another function than the rest: they cannot change places across halves."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, dim=1)
        logits: Tensor = self.head(torch.cat((torch.sigmoid(left), functional.relu(right)), dim=1).mean((2, 3)))
        return logits


def test_units_change_places_within_the_tensors_that_hold_them() -> None:
    dense = trace(lively(_Halves()), SHAPE)
    groups = coupling_groups(dense)
    assert [group.units for group in groups] == [4, 4]
    orders = reorder(dense, groups, {"stem": torch.rand(8, 3, 3, 3)}, {"stem": Pattern.parse("2x1@1/3")})
    assert _gap(slim(dense, groups, orders), dense) <= 1e-5
    some = {group.id: np.array([3, 1]) for group in groups}
    assert _gap(slim(dense, groups, some), mask(dense, groups, some)) <= 1e-5


def _saliency(dense: Network, patterns: dict[str, Pattern], seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    modules = dict(dense.module.named_modules())
    return {name: torch.randn(modules[name].weight.shape, generator=generator).exp() for name in patterns}  # type: ignore[union-attr,arg-type]


def _masked_layers(dense: Network, pattern: Pattern) -> dict[str, Pattern]:
    return {
        name: pattern
        for name, module in dense.module.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
        and getattr(module, "groups", 1) == 1
        and not (pattern.shared and module.weight.shape[1] % pattern.m)
    }


def _retained(dense: Network, saliency: dict[str, Tensor], patterns: dict[str, Pattern], order: Keep) -> float:
    """Return what the best masks keep after `order`, by letting `slim` move the saliency as it moves weights."""
    module = copy.deepcopy(dense.module)
    with torch.no_grad():
        for name, values in saliency.items():
            module.get_submodule(name).weight.copy_(values)  # type: ignore[operator]
    carrier = replace(dense, module=module)
    moved = slim(carrier, coupling_groups(carrier), order).module
    weights = {name: moved.get_submodule(name).weight.detach() for name in patterns}  # type: ignore[operator]
    return sum(float(weights[name][best_mask(weights[name], p)].double().sum()) for name, p in patterns.items())


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(NETWORKS)), st.sampled_from(PATTERNS), st.integers(0, 99))
def test_a_reordered_network_computes_the_same_and_its_masks_never_keep_less(
    name: str, pattern: str, seed: int
) -> None:
    dense = network(name)
    patterns = _masked_layers(dense, Pattern.parse(pattern))
    saliency = _saliency(dense, patterns, seed)
    groups = coupling_groups(dense)
    order = reorder(dense, groups, saliency, patterns)
    assert all(np.array_equal(np.sort(units), np.arange(len(units))) for units in order.values())
    assert _gap(slim(dense, groups, order), dense) <= 1e-5
    before = _retained(dense, saliency, patterns, {})
    assert _retained(dense, saliency, patterns, order) >= before * (1 - 1e-6)


class _Pair(nn.Module):
    """Two convolutions in a row: one group between them."""

    def __init__(self, c_in: int = 3, width: int = 8) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(c_in, width, 1), nn.Conv2d(width, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.two(functional.relu(self.one(x))).mean((2, 3))
        return logits


def _planted(num_kinds: int, per_kind: int, columns: int, seed: int) -> Tensor:
    """Return saliency [kinds * per_kind, kinds * columns] of shuffled rows, each of which likes one set of columns."""
    rng = np.random.default_rng(seed)
    kinds = rng.permutation(np.repeat(np.arange(num_kinds), per_kind))
    likes = kinds[:, None] == np.repeat(np.arange(num_kinds), columns)[None]
    return torch.from_numpy(np.where(likes, 1.0, 0.01) * rng.uniform(0.5, 1, likes.shape))


@pytest.mark.parametrize("seed", range(3))
def test_channels_that_like_the_same_inputs_come_to_share_a_block_row(seed: int) -> None:
    shape = (12, 8, 8)
    dense = trace(lively(_Pair(12, 32), shape), shape)
    saliency, pattern = _planted(4, 8, 3, seed), Pattern.parse("8x1@1/4")
    order = reorder(dense, coupling_groups(dense), {"one": saliency[..., None, None]}, {"one": pattern})["one"]
    kept = float(saliency[order][best_mask(saliency[order], pattern)].sum() / saliency.sum())
    assert kept > 0.95 and float(saliency[best_mask(saliency, pattern)].sum() / saliency.sum()) < 0.6


def test_inputs_that_are_read_by_the_same_block_rows_come_to_share_a_tile() -> None:
    shape = (3, 8, 8)
    dense = trace(lively(_Wide(), shape), shape)
    saliency, pattern = _planted(4, 4, 8, 0).T.contiguous(), Pattern.parse("8x4@1/4")
    order = reorder(dense, coupling_groups(dense), {"two": saliency[..., None, None]}, {"two": pattern})["one"]
    moved = saliency[:, order]
    assert float(moved[best_mask(moved, pattern)].sum() / saliency.sum()) > 0.95


class _Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, 1), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(functional.relu(self.two(functional.relu(self.one(x)))).mean((2, 3)))
        return logits


@pytest.mark.parametrize("seed", range(4))
def test_small_groups_come_close_to_the_best_of_all_orders(seed: int) -> None:
    dense = trace(lively(_Pair(3, 6)), SHAPE)
    saliency = torch.rand(6, 3, 1, 1, generator=torch.Generator().manual_seed(seed))
    pattern = Pattern.parse("3x1@1/3")

    def kept(order: tuple[int, ...]) -> float:
        moved = saliency[list(order)]
        return float(moved[best_mask(moved, pattern)].sum())

    order = reorder(dense, coupling_groups(dense), {"one": saliency}, {"one": pattern})["one"]
    assert kept(tuple(order.tolist())) >= 0.97 * max(kept(p) for p in permutations(range(6)))


def test_the_same_input_gives_the_same_order() -> None:
    dense = network("Residual")
    patterns = _masked_layers(dense, Pattern.parse("2x2@1/2"))
    saliency = _saliency(dense, patterns)
    first = reorder(dense, coupling_groups(dense), saliency, patterns)
    second = reorder(dense, coupling_groups(dense), saliency, dict(reversed(patterns.items())))
    assert all(np.array_equal(first[group], second[group]) for group in first)


def test_a_reordered_network_still_serves_any_batch() -> None:
    dense = network("Inverted")
    moved = slim(dense, coupling_groups(dense), _shuffled(dense, 3, 1.0))
    for batch in (1, 5):
        torch.testing.assert_close(
            moved.module(images(batch=batch)), dense.module(images(batch=batch)), rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("name", ["Chain", "Residual", "Inverted", "Dense"])
def test_least_squares_repair_follows_units_to_their_new_places(name: str) -> None:
    dense = network(name)
    groups, keep = coupling_groups(dense), _shuffled(dense, 4, 0.6)
    ascending = {group: np.sort(units) for group, units in keep.items()}
    one, other = (
        reconstruct(dense, slim(dense, groups, order), groups, order, images(batch=32)).network
        for order in (keep, ascending)
    )
    assert _gap(one, other) <= 1e-3 < _gap(one, slim(dense, groups, keep))


def test_what_cannot_be_reordered_is_refused() -> None:
    dense = network("Grouped")
    groups = coupling_groups(dense)
    with pytest.raises(ValueError, match=r"no saliency for one\.0"):
        reorder(dense, groups, {}, {"one.0": Pattern.parse("2x1@1/2")})
    with pytest.raises(ValueError, match=r"two\.0 is a grouped"):
        reorder(dense, groups, {"two.0": torch.rand(12, 4, 3, 3)}, {"two.0": Pattern.parse("2x1@1/2")})
