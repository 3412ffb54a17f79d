"""What a job is told before anything is measured: what stays dense, and how much of the network that is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lut.profile import DeviceProfile
from lut.request import num_macs
from lut.signature import OpSignature
from lut.table import Entry, LatencyTable
from pruning.architectures import build
from pruning.groups import coupling_groups
from pruning.operators import operators
from pruning.tables import grid_requests, width_choices
from pruning.trace import trace
from workers.context import StepContext
from workers.steps import preflight

torch.set_num_threads(1)
PROFILE = DeviceProfile(hardware="desk", runtime="onnxruntime", runtime_version="1", threads=1, batch=1)


def answer(folder: Path, arch: str, size: int, slow: str = "", absent: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the preflight of a network with random weights; `slow` is a kind of operator that a device's table finds slow."""
    model = build(arch, 10)
    save_file(model.state_dict(), folder / "model")
    if slow:
        write_table(folder / "known_table.json", arch, size, slow)
    spec = {
        "model": {"arch": arch},
        "absent": absent,
        "dataset": {"classes": [f"class {i}" for i in range(10)], "image_size": size},
        "job": {
            "classes": list(range(10)),
            "head": "full",
            "saliency": "squared_taylor",
            "budget_ratio": 0.5,
            "budget_ms": None,
            "keep_dense": [],
            "min_widths": {},
            "patterns": "none",
        },
    }
    return preflight.run(
        StepContext(workdir=folder, cache=folder, spec=spec, seed=0, attempt=1, emit=lambda event: None)
    )


def write_table(path: Path, arch: str, size: int, slow: str) -> None:
    """Write a table of the dense points alone: 1 us for every operator, 9 us for the slow kind."""
    network = trace(build(arch, 10), (3, size, size))
    groups = coupling_groups(network)
    dense = {group.id: group.units for group in groups}
    entries: dict[OpSignature, dict[tuple[int, int], Entry]] = {}
    for op in operators(network, groups):
        cost_us = 9.0 if op.signature.kind == slow else 1.0
        entries.setdefault(op.signature, {})[op.c_in.at(dense), op.c_out.at(dense)] = Entry(
            p50_us=cost_us, p90_us=cost_us, num_samples=15
        )
    LatencyTable(profile=PROFILE, entries=entries).save(path)


@pytest.mark.parametrize(
    "arch", ["torchvision/mobilenet_v3_small", "torchvision/shufflenet_v2_x0_5", "torchvision/googlenet"]
)
def test_networks_of_convolutions_can_be_pruned_everywhere(tmp_path: Path, arch: str) -> None:
    found = answer(tmp_path, arch, 64)
    assert found["ok"] and found["prunable_latency_share"] == pytest.approx(1)
    assert not [blocker for blocker in found["blockers"] if blocker["severity"] == "error"]


def test_transformer_names_every_layer_that_stays_with_its_share_of_work(tmp_path: Path) -> None:
    found = answer(tmp_path, "torchvision/swin_t", 32)
    shares = {blocker["layer"]: blocker["latency_share"] for blocker in found["blockers"]}
    assert found["ok"] and 0 < found["prunable_latency_share"] < 1
    # The prunable share, the notable layers and the two lists of small ones are all there is.
    assert found["prunable_latency_share"] + sum(b["latency_share"] for b in found["blockers"]) == pytest.approx(1)
    assert "shifted_window_attention_6" in shares
    details = " ".join(blocker["detail"] for blocker in found["blockers"])
    assert "LayerNorm `features_0_2`" in details and "of the multiply-accumulates" in details
    assert "features.0.0" in details and "latency by" not in details


def test_shares_are_of_the_latency_where_the_device_has_a_table(tmp_path: Path) -> None:
    found = answer(tmp_path, "torchvision/swin_t", 32, slow="conv")
    network = trace(build("torchvision/swin_t", 10), (3, 32, 32))
    costs = operators(network, coupling_groups(network))
    total = sum(9 if op.signature.kind == "conv" else 1 for op in costs)
    (stem,) = [blocker for blocker in found["blockers"] if blocker["layer"] == "features.0.0"]
    assert stem["code"] == "stays_dense" and stem["latency_share"] == pytest.approx(9 / total)
    assert "of the latency by the device's table" in stem["detail"] and "LayerNorm" in stem["detail"]
    assert found["dense_ms"] == pytest.approx(total / 1e3)
    unpriced = [blocker for blocker in found["blockers"] if blocker["code"] == "not_in_the_table"]
    assert unpriced and all("of the multiply-accumulates" in blocker["detail"] for blocker in unpriced)


def test_the_least_is_positive_whatever_the_offset(tmp_path: Path) -> None:
    network = trace(build("cifar/resnet20", 10), (3, 32, 32))
    groups = coupling_groups(network)
    table = LatencyTable(profile=PROFILE, entries={}, step=8)
    requests = grid_requests(operators(network, groups), width_choices(groups, table))
    entries = {
        one.signature: {at: Entry(p50_us=float(sum(at)), p90_us=sum(at), num_samples=9) for at in one.pairs()}
        for one in requests
    }
    found = []
    for offset_us in (0.0, -2.0, -1e6, 2.0, 1e6):
        replace(table, entries=entries, operator_offset_us=offset_us).save(tmp_path / "known_table.json")
        told = answer(tmp_path, "cifar/resnet20", 32)
        found.append((told["min_achievable_ms"], told["dense_ms"]))
    (least, dense), *moved = found
    num = sum(one.count for one in requests)
    assert moved[0][1] == pytest.approx(dense - num * 2e-3) and least / 2 < moved[0][0] < least
    assert moved[1] == pytest.approx((least / 2, dense / 2)), "half of what an operator takes by itself"
    # What can be removed is not called.
    assert moved[2][1] == pytest.approx(dense + num * 2e-3) and least + 2e-3 <= moved[2][0] <= least + num * 2e-3
    assert moved[3][1] == pytest.approx(dense + num * 1e3) and 1e3 <= moved[3][0] <= num * 1e3, "a second for each"


def test_work_is_counted_at_the_dense_widths(tmp_path: Path) -> None:
    found = answer(tmp_path, "torchvision/convnext_tiny", 32)
    network = trace(build("torchvision/convnext_tiny", 10), (3, 32, 32))
    groups = coupling_groups(network)
    dense = {group.id: group.units for group in groups}
    work = {op.name: num_macs(op.signature, op.c_in.at(dense), op.c_out.at(dense)) for op in operators(network, groups)}
    pointwise = sum(macs for name, macs in work.items() if name.endswith(("block_3", "block_5")))
    assert found["prunable_latency_share"] == pytest.approx(pointwise / sum(work.values()), rel=0.05)


def test_a_runtime_that_is_absent_stops_the_job(tmp_path: Path) -> None:
    found = answer(tmp_path, "cifar/resnet20", 32, absent=("openvino cannot run here: it is not installed.",))
    assert not found["ok"]
    assert [b["detail"] for b in found["blockers"] if b["code"] == "runtime_absent"] == [
        "openvino cannot run here: it is not installed."
    ]
