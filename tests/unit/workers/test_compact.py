"""The compact form of a masked network is written, proven and weighed; without masks there is none."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lut.pattern import Pattern
from pruning.export import to_safetensors
from pruning.masked import masked_copy
from pruning.network import Network
from pruning.patterns.masks import best_mask
from pruning.patterns.tables import weight_of
from pruning.storage import differing, load_compact
from pruning.trace import trace
from tests.builders import lively
from tests.toy_job import Net
from workers.context import StepContext, StepProblem
from workers.files import COMPACT
from workers.steps.compact import compact

PATTERNS = {"conv2": Pattern.parse("16x1@1/4"), "wide": Pattern.parse("2:4")}


def context(folder: Path) -> StepContext:
    return StepContext(workdir=folder, cache=folder, spec={}, seed=0, attempt=1, emit=lambda event: None)


def dense() -> Network:
    return trace(lively(Net(), (3, 16, 16)), (3, 16, 16))


def masks(network: Network) -> dict[str, torch.Tensor]:
    return {name: best_mask(weight_of(network.module, name).abs(), pattern) for name, pattern in PATTERNS.items()}


def test_the_file_restores_the_network_that_is_handed_out_and_its_sizes_add_up(tmp_path: Path) -> None:
    network = masked_copy(dense(), masks(dense()))
    found = compact(context(tmp_path), network, masks(network), PATTERNS)
    assert found is not None
    to_safetensors(network, tmp_path / "model.safetensors")
    assert differing(load_file(tmp_path / "model.safetensors"), load_compact(tmp_path / COMPACT)) == ()
    assert [(layer["layer"], layer["pattern"], layer["density"]) for layer in found["layers"]] == [
        ("conv2", "16x1@1/4", 0.25),
        ("wide", "2:4", 0.5),
    ]
    for form in ("dense_bytes", "csr_bytes", "compact_bytes"):
        assert found[form] == found["other_bytes"] + sum(layer[form] for layer in found["layers"])
    assert found["dense_bytes"] == sum(value.nbytes for value in network.module.state_dict().values())
    size = (tmp_path / COMPACT).stat().st_size
    assert found["compact_bytes"] <= size < found["compact_bytes"] + 8192 < found["csr_bytes"]
    assert found["metadata_bits"] == 2 * 16 * 6 + 64 * 9 * 16 * 2  # 16 of 64 channels per row of tiles; 2 of 4 channels


def test_without_masks_there_is_no_file(tmp_path: Path) -> None:
    assert compact(context(tmp_path), dense(), {}, {}) is None
    assert not (tmp_path / COMPACT).exists()


def test_a_network_that_the_file_does_not_restore_ends_the_step_with_its_layer(tmp_path: Path) -> None:
    network = dense()  # not masked: what the masks cut is not zero
    with pytest.raises(StepProblem, match=r"conv2\.weight, wide\.weight") as raised:
        compact(context(tmp_path), network, masks(network), PATTERNS)
    assert raised.value.code == "compact_differs"
