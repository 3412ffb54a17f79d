"""Layers are lowered where a measurement says that it pays, and only there."""

from collections.abc import Sequence

import torch
from torch import nn

from lut.measure.runtime import runtime
from pruning.export import num_macs
from pruning.lower.choose import choose, latency_ms
from pruning.lower.times import layer_times_us
from pruning.network import Network
from pruning.trace import trace
from tests.builders import SHAPE, lively

PROFILE = runtime("onnxruntime").profile(1, 1)


def chain() -> Network:
    layers = [
        nn.Conv2d(3, 8, 1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 16, 1),
    ]
    return trace(lively(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())), SHAPE)  # fmt: skip


def masks() -> dict[str, torch.Tensor]:
    made = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in {
        "2": (8, 8, 3, 3), "4": (8, 8, 3, 3), "6": (16, 8, 1, 1)}.items()}  # fmt: skip
    for mask in made.values():
        for row, first in enumerate(range(0, len(mask), 4)):
            mask[first : first + 4, [row, row + 3]] = True
    return made


def gathers(network: Network) -> set[str]:
    return {node.name for node in network.module.graph.nodes if "_gather" in node.name}


def test_everything_is_lowered_where_multiply_accumulates_are_all_that_counts() -> None:
    assert choose(chain(), masks(), lambda networks: [num_macs(one) for one in networks]) == {"2", "4", "6"}


def test_nothing_is_lowered_where_gathers_cost_the_world() -> None:
    def dear(networks: Sequence[Network]) -> list[float]:
        return [num_macs(one) + 1e9 * len(gathers(one)) for one in networks]

    assert choose(chain(), masks(), dear) == frozenset()


def test_only_the_kind_of_layer_that_does_not_pay_stays_dense() -> None:
    def dear_at_the_end(networks: Sequence[Network]) -> list[float]:
        return [num_macs(one) + 1e9 * ("_6_gather" in gathers(one)) for one in networks]

    assert choose(chain(), masks(), dear_at_the_end) == {"2", "4"}


def test_a_layer_that_its_own_time_clears_of_doubt_is_not_measured_again() -> None:
    seen = 0

    def counted(networks: Sequence[Network]) -> list[float]:
        nonlocal seen
        seen += len(networks)
        return [num_macs(one) for one in networks]

    times = {"2": (10.0, 2.0), "4": (10.0, 30.0), "6": (10.0, 3.0)}
    assert choose(chain(), masks(), counted, times) == {"2", "6"}
    assert seen == 2  # what is sure, and nothing


def test_each_layer_is_timed_dense_and_lowered() -> None:
    times = layer_times_us(chain(), masks(), PROFILE)
    assert set(times) == {"2", "4", "6"}
    assert all(dense > 0 and lowered > 0 for dense, lowered in times.values())
    assert choose(chain(), masks(), latency_ms(PROFILE, seconds=0.01), times) <= set(times)


def test_a_layer_that_cannot_be_lowered_is_never_chosen() -> None:
    odd = masks() | {"2": torch.rand(8, 8, 3, 3, generator=torch.Generator().manual_seed(0)) > 0.99}
    odd["2"][:, 0] = False
    chosen = choose(chain(), odd, lambda networks: [num_macs(one) for one in networks])
    assert "4" in chosen
