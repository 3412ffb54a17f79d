"""Claims about every network that can be put together from known layers, not about a list of them."""

from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.export import onnx_error, to_onnx
from pruning.groups import coupling_groups
from pruning.operators import operators
from pruning.slim import mask, slim
from pruning.trace import trace
from tests.builders import images, lively, outputs, random_keep
from tests.unit.pruning.random_networks import STEPS, Program, RandomNetwork

SHAPE = (3, 8, 8)
PROGRAMS = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 5_000)), min_size=2, max_size=9)


def relative_error(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference relative to the largest value, where that is above 1."""
    return float((one - other).abs().max()) / max(1.0, float(one.abs().max()))


@settings(max_examples=60, deadline=None)
@given(PROGRAMS, st.integers(0, 10_000))
def test_masked_dense_equals_slimmed_for_any_network_and_any_widths(program: Program, seed: int) -> None:
    model = lively(RandomNetwork(program), SHAPE)
    dense = trace(model, SHAPE)
    torch.testing.assert_close(dense.module(images(SHAPE)), model(images(SHAPE)), rtol=1e-4, atol=1e-4)
    groups = coupling_groups(dense)
    narrowest = {group.id: np.array([group.units - 1]) for group in groups if not group.frozen}
    for keep in (random_keep(groups, seed), narrowest):
        assert relative_error(outputs(mask(dense, groups, keep), 3), outputs(slim(dense, groups, keep), 3)) <= 1e-4


@settings(max_examples=30, deadline=None)
@given(PROGRAMS, st.integers(0, 10_000))
def test_channel_counts_of_operators_are_those_of_the_slimmed_network(program: Program, seed: int) -> None:
    dense = trace(lively(RandomNetwork(program), SHAPE), SHAPE)
    groups = coupling_groups(dense)
    keep = random_keep(groups, seed, share=1.0)
    widths = {group.id: len(keep.get(group.id, range(group.units))) for group in groups}
    slimmed = slim(dense, groups, keep)
    full = {group.id: group.units for group in coupling_groups(slimmed)}
    small = {op.name: op for op in operators(slimmed, ())}
    for op in operators(dense, groups):
        assert op.c_out.at(widths) == small[op.name].c_out.at(full)
        # A depthwise convolution of one channel is a plain one, and the other way round for groups of one channel.
        if op.signature.kind == small[op.name].signature.kind:
            assert op.c_in.at(widths) == small[op.name].c_in.at(full)


@settings(max_examples=10, deadline=None)
@given(PROGRAMS, st.integers(0, 10_000))
def test_onnx_runtime_agrees_on_any_slimmed_network(tmp_path_factory: object, program: Program, seed: int) -> None:
    dense = trace(lively(RandomNetwork(program), SHAPE), SHAPE)
    groups = coupling_groups(dense)
    slimmed = slim(dense, groups, random_keep(groups, seed))
    path = Path(str(tmp_path_factory.mktemp("onnx"))) / "slim.onnx"  # type: ignore[attr-defined]
    to_onnx(slimmed, path)
    assert onnx_error(slimmed, path).relative <= 1e-4
