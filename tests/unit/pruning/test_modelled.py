"""What modelled accelerators would take for a pruned network: the sums of `lut.analytic` over its operators."""

import numpy as np
import pytest
import torch
from torch import nn

from lut.analytic import ACCELERATORS, CRISP, DENSE, FLEXIBLE, RIGID, operator_cost
from lut.pattern import Pattern
from lut.signature import OpSignature
from pruning.groups import coupling_groups
from pruning.modelled import Modelled, modelled
from pruning.network import Network
from pruning.operators import operators
from pruning.stages import build, removable_stages
from pruning.trace import trace
from tests.builders import lively, network

NAMES = [core.name for core in ACCELERATORS]


def two_layers() -> Network:
    """3 -> 64 -> 128 channels on 16 x 16, both 3 x 3."""
    layers = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 128, 3, padding=1))
    return trace(lively(nn.Sequential(layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 5))), (3, 16, 16))


def halved(dense: Network) -> Network:
    groups = coupling_groups(dense)
    keep = {group.id: np.arange(group.units // 2) for group in groups if not group.frozen}
    return build(dense, groups, keep, ())


def named(found: Modelled, layer: str) -> tuple[float | None, ...]:
    return next(one.speedups for one in found.layers if one.name == layer)


def test_a_network_beside_itself_gains_nothing_anywhere() -> None:
    dense = network("Residual")
    found = modelled(dense, dense, {})
    assert [core.name for core in found.cores] == NAMES
    assert all(core.dense_us == core.slim_us > 0 and core.dense_uj == core.slim_uj > 0 for core in found.cores)
    assert all(core.best_layer_speedup == 1 for core in found.cores)
    assert found.macs_share == 1 and not found.unmodelled
    assert {(layer.pattern, layer.density) for layer in found.layers} == {("dense", 1.0)}


def test_totals_are_the_sums_over_operators_at_the_widths_of_each_network() -> None:
    dense = two_layers()
    slim = halved(dense)
    conv = OpSignature(kind="conv", height=16, width=16, kernel=(3, 3), padding=(1, 1), activation="relu")
    last = OpSignature(kind="conv", height=16, width=16, kernel=(3, 3), padding=(1, 1))
    pool = OpSignature(kind="global_pool", height=16, width=16, bias=False)
    head = OpSignature(kind="linear", height=1, width=1)
    sums = [
        sum(operator_cost(DENSE, *one).latency_us for one in ((conv, 3, a), (last, a, b), (pool, b, b), (head, b, 5)))
        for a, b in ((64, 128), (32, 64))
    ]
    core = modelled(dense, slim, {}).cores[NAMES.index(DENSE.name)]
    assert (core.dense_us, core.slim_us) == pytest.approx(sums)


def test_half_the_channels_are_half_of_the_first_layer_and_a_quarter_of_the_second() -> None:
    dense = two_layers()
    found = modelled(dense, halved(dense), {})
    assert [layer.density for layer in found.layers] == [1 / 2, 1 / 4, 1 / 2]
    positions = 16 * 16
    before, after = (positions * 9 * (3 * a + a * b) + b * 5 for a, b in ((64, 128), (32, 64)))
    assert found.macs_share == pytest.approx(after / before)


def test_each_pattern_pays_on_the_cores_that_can_skip_what_it_cuts() -> None:
    dense = two_layers()

    def gains(pattern: str) -> set[str]:
        times = named(modelled(dense, dense, {"_0_2": Pattern.parse(pattern)}), "_0_2")
        return {name for name, time in zip(NAMES, times, strict=True) if time is not None and time > 1.01}

    assert DENSE.name not in gains("2:4") | gains("64x1@1/4")
    assert gains("2:4") >= {RIGID.name, FLEXIBLE.name, CRISP.name}
    assert CRISP.name in gains("64x1@1/4") and not gains("64x1@1/4") & {RIGID.name, FLEXIBLE.name}


def test_a_hybrid_keeps_the_product_of_both_densities() -> None:
    dense = two_layers()
    found = modelled(dense, dense, {"_0_2": Pattern.parse("2:4+16x16@1/4")})
    masked = next(layer for layer in found.layers if layer.name == "_0_2")
    assert (masked.pattern, masked.density) == ("2:4+16x16@1/4", 0.125)
    times = dict(zip(NAMES, masked.speedups, strict=True))
    assert (times[CRISP.name] or 0) > (times[FLEXIBLE.name] or 0) >= (times[RIGID.name] or 0) > 1


def test_a_layer_that_went_with_its_branch_has_no_speed_up() -> None:
    dense = network("Residual")
    groups = coupling_groups(dense)
    stages = removable_stages(dense, groups, operators(dense, groups))
    slim = build(dense, groups, {}, [stages[0].id])
    found = modelled(dense, slim, {})
    gone = [layer for layer in found.layers if not layer.density]
    assert gone and all(set(layer.speedups) == {None} for layer in gone)
    assert all(core.slim_us < core.dense_us for core in found.cores)


def test_more_images_take_longer() -> None:
    dense = network("Chain")
    one, eight = (modelled(dense, dense, {}, batch=batch).cores[0] for batch in (1, 8))
    assert eight.dense_us > 2 * one.dense_us


def test_what_no_model_covers_is_named() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.norm, self.head = nn.Conv2d(3, 32, 4, 4), nn.LayerNorm(32), nn.Linear(32, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.norm(self.patches(x).flatten(2).transpose(1, 2)).mean(1))
            return logits

    dense = trace(Tokens().eval(), (3, 16, 16))
    assert "norm" in modelled(dense, dense, {}).unmodelled
